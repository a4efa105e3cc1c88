// Search in pages opened as files: browsers start no worker from a file, so a hidden frame does its work.
// The offline plugin would load a script for this from elsewhere.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inside = this.frame.contentWindow
      const load = (source) =>
        new Promise((resolve, reject) => {
          const script = inside.document.createElement("script")
          Object.assign(script, { src: source, onload: resolve, onerror: reject })
          inside.document.body.append(script)
        })
      inside.importScripts = (...sources) =>
        sources.reduce((before, source) => before.then(() => load(source)), Promise.resolve())
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      this.ready = load(url)
    }

    postMessage(data) {
      const event = () => new this.frame.contentWindow.MessageEvent("message", { data })
      this.ready.then(() => this.frame.contentWindow.dispatchEvent(event()))
    }

    terminate() {
      this.frame.remove()
    }
  }
}

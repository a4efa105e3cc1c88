"use strict";
// Keeps or drops suspects by keys and buttons, remembers what was decided, and offers the file of bans.
(() => {
  const desk = document.getElementById("desk");
  if (!desk) return;
  const cards = [...document.querySelectorAll(".suspect")];
  const memory = "learnable:" + desk.dataset.key;
  const rest = desk.dataset.rest.split(" ").filter(Boolean);
  let at = -1;

  const remembered = () => {
    try {
      return JSON.parse(localStorage.getItem(memory) || "{}");
    } catch {
      return {}; // a browser that remembers nothing of files
    }
  };
  const remember = () => {
    const changed = cards.filter((card) => card.dataset.state !== card.dataset.first);
    try {
      localStorage.setItem(memory, JSON.stringify(Object.fromEntries(changed.map((card) => [card.dataset.id, card.dataset.state]))));
    } catch {
      return;
    }
  };
  const dropped = () => [...cards.filter((card) => card.dataset.state === "drop").map((card) => card.dataset.id), ...rest];
  const show = () => {
    const open = cards.filter((card) => card.dataset.state === "").length;
    document.getElementById("counts").textContent = `${dropped().length} to drop, ${open} undecided`;
    for (const card of cards)
      for (const button of card.querySelectorAll("button"))
        button.setAttribute("aria-pressed", String(button.dataset.to === card.dataset.state));
  };
  const decide = (card, state) => {
    card.dataset.state = state;
    remember();
    show();
  };
  const go = (to) => {
    at = Math.min(Math.max(to, 0), cards.length - 1);
    for (const card of cards) card.classList.toggle("here", card === cards[at]);
    cards[at].focus({ preventScroll: true });
    cards[at].scrollIntoView({ block: "start" });
  };
  const keys = {
    j: () => go(at + 1),
    k: () => go(at - 1),
    d: () => at >= 0 && (decide(cards[at], "drop"), go(at + 1)),
    u: () => at >= 0 && (decide(cards[at], "keep"), go(at + 1)),
    x: () => at >= 0 && decide(cards[at], ""),
  };

  const known = remembered();
  for (const [place, card] of cards.entries()) {
    if (card.dataset.id in known) card.dataset.state = known[card.dataset.id];
    card.addEventListener("click", (event) => {
      at = place;
      for (const each of cards) each.classList.toggle("here", each === card);
      const to = event.target.dataset.to;
      if (to) decide(card, card.dataset.state === to ? "" : to);
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  document.getElementById("download").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([dropped().map((id) => id + "\n").join("")], { type: "text/plain" }));
    link.download = "bans.txt";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  show();
  document.documentElement.dataset.ready = "yes";
})();

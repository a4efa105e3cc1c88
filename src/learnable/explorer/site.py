"""The page served on this machine, and the same page as a folder of files."""

import contextlib
import html
import re
import secrets
import socket
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learnable.errors import DiskError, UsageError
from learnable.explorer.screen import first_screen
from learnable.explorer.sheet import NEAR, Sheet, X, Y, library
from learnable.runs.files import replacing
from learnable.runs.identity import fingerprint

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Receive, Scope, Send

PORT = 5055
"""Tried first; where it is taken, any free one."""
QUERY = "data/query"
"""Where the page sends SQL."""
FIRST_ROW = "first_row.js"
"""The one script that is ours."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Nothing is loaded from elsewhere, whatever stands in the data: no picture in a Markdown text, no script, no font.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src data: blob:; font-src 'self' data:; "
    "base-uri 'none'; form-action 'none'"
)


def needs_explorer() -> None:
    """Raise a ``UsageError`` where the page cannot be made, before any work is done."""
    library("server")


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket that is open for the page; without a port 5055, or any free one where that is taken.

    Raises:
        UsageError: If the address or the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    failed: OSError | None = None
    for number in (PORT, 0) if port is None else (port,):
        try:
            return socket.create_server((host, number), family=family)
        except OSError as error:
            failed = error
    wanted = host if port is None else f"{host}, port {port}"
    raise UsageError(
        f"cannot listen on {wanted}: {failed.strerror if failed else ''}",
        hint="leave --port out to take any free one; --host is 127.0.0.1 or an address of this machine",
    ) from failed


def serve(sheet: Sheet, listening: socket.socket, *, secret: str) -> None:
    """Serve the page until Ctrl-C, on what ``listen`` opened.

    The secret is the first part of the path of the page and of all that it asks for; nothing is given out without it.
    """
    import uvicorn

    static = _static()
    app = library("server").make_server(_source(sheet), static_path=str(static), duckdb_uri="server")
    host = str(listening.getsockname()[0])
    guarded = _Guard(app, home=_home(static, sheet.title), local=host in LOOPBACK, secret=secret)
    config = uvicorn.Config(
        guarded, access_log=False, log_level="warning", lifespan="off", timeout_graceful_shutdown=1
    )
    # The server ends in good order on Ctrl-C, and passes it on afterwards.
    with listening, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def export(sheet: Sheet, folder: Path) -> None:
    """Write the page as a folder that any web server of files can show.

    Raises:
        UsageError: If the folder is there already, and is not empty.
        DiskError: If it cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"{folder} is there already", hint="give --export a folder that is not there yet")
    static = _static()
    with replacing(folder) as part:
        _source(sheet).export_to_folder(str(static), str(part))
        (part / "index.html").write_bytes(_home(static, sheet.title))
        (part / FIRST_ROW).write_bytes(_first_row())


class _Guard:
    """Gives out our first page, keeps all others away from the data, and forbids the page to ask elsewhere."""

    def __init__(self, app: "ASGIApp", *, home: bytes, local: bool, secret: str) -> None:
        self._app, self._home, self._secret = app, home, secret
        # A name that an attacker points to this machine is none of these.
        self._hosts = {*LOOPBACK, "[::1]"} if local else None

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse, RedirectResponse, Response

        if scope["type"] != "http":  # the page opens no socket
            await send({"type": f"{scope['type']}.close"})
            return
        given, slash, path = scope["path"].removeprefix("/").partition("/")
        headers = Headers(scope=scope)
        if not secrets.compare_digest(given.encode(), self._secret.encode()):
            refused = "open the address that `learnable explore` has shown: it holds a secret"
        elif self._is_of_another_site(headers) or (path == QUERY and scope["method"] != "POST"):
            refused = "not for other sites"
        else:
            refused = ""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["content-security-policy"] = _POLICY
                answer["referrer-policy"] = "no-referrer"
            await send(message)

        page: ASGIApp = self._app
        if refused:
            page = PlainTextResponse(refused, status_code=403)
        elif path == FIRST_ROW:
            page = Response(_first_row(), media_type="text/javascript")
        elif not path:  # without the slash, what the page asks for would lie beside it
            page = (
                Response(self._home, media_type="text/html")
                if slash
                else RedirectResponse(f"/{self._secret}/")
            )
        await page({**scope, "path": f"/{path}"}, receive, with_policy)

    def _is_of_another_site(self, headers: "Headers") -> bool:
        """Tell whether another page may have sent a request: browsers name it, but not always in the same header."""
        host = headers.get("host", "")
        if self._hosts is not None and re.sub(r":\d+$", "", host) not in self._hosts:
            return True
        if headers.get("origin") not in (None, f"http://{host}"):
            return True
        return headers.get("sec-fetch-site") not in (None, "same-origin", "none")


def _static() -> Path:
    return Path(library("server").__file__).parent / "static"


def _first_row() -> bytes:
    return files("learnable.explorer").joinpath(FIRST_ROW).read_bytes()


def _home(static: Path, title: str) -> bytes:
    """Return the page of the library with our title, and with the policy for copies that no server of ours gives out."""
    page = (static / "index.html").read_text(encoding="utf-8")
    head = "".join(
        (
            "<head>",
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{html.escape(title)}</title>",
            '<link rel="icon" href="data:,">',
            f'<script src="{FIRST_ROW}"></script>',
        )
    )
    without = re.sub(r"<title>.*?</title>", "", page, flags=re.DOTALL)
    return without.replace("<head>", head, 1).encode()


def _source(sheet: Sheet) -> Any:
    props = library("options").make_embedding_atlas_props(
        row_id="row",
        text=sheet.text,
        neighbors=NEAR if sheet.map else None,
        initial_state=first_screen(sheet),
    )
    # Under this name the page keeps the words it found for places on the map.
    places = sheet.frame.select(X, Y).sum().rows() if sheet.map else []
    identity = fingerprint([sheet.frame["id"].to_list(), [list(row) for row in places]])
    try:
        return library("data_source").DataSource(identity, sheet.frame, {"props": props})
    except OSError as error:
        raise DiskError(
            f"embedding-atlas cannot write to its cache: {error}",
            hint="name a folder that can be written: XDG_CACHE_HOME=/tmp learnable explore ...",
        ) from error

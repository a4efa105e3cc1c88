"""Whether the Hugging Face hub can be reached: asked once, before what would try again for half a minute."""

import time

CONNECT_S = 5.0
"""Seconds that a connection may take; a slow network that works needs less, one that is shut off never makes it."""
PAUSE_S = 1.0


def unreachable() -> str | None:
    """Return why the hub cannot be reached, None when it can; a network without a name server says so at once.

    Only the connection is tried, twice: how slowly the hub answers, and with which status, is for those to judge who
    ask it for something. Offline mode (``HF_HUB_OFFLINE``) is not looked at: the hub library refuses by itself.
    """
    import httpx
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return None
    for pause_s in (PAUSE_S, 0.0):
        try:
            get_session().head(constants.ENDPOINT, timeout=httpx.Timeout(CONNECT_S), follow_redirects=False)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            why = str(error) or type(error).__name__
            time.sleep(pause_s)
        except httpx.HTTPError:  # it was reached; the rest is no reason to give up
            return None
        else:
            return None
    return f"{constants.ENDPOINT} cannot be reached ({why})"

"""Where a gateway keeps things: its store, the first key, its snapshot."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlencode

from router.errors import SettingsError
from router.settings import Settings


def make_state_dir(settings: Settings) -> None:
    """Make the folder of the database and the snapshots. Raises: SettingsError."""
    try:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        message = f"state_dir: {settings.state_dir} cannot be made: {error.strerror}"
        raise SettingsError(message, param="state_dir") from None


def store_url(settings: Settings) -> str:
    """What open_stores() opens."""
    store = settings.store
    kept = {"log_entries": store.log_entries, "audit_entries": store.audit_entries}
    kept |= {"conversations": settings.responses.each, "conversation_ms": settings.responses.days * 86_400_000}
    if store.redis is not None:
        url = store.redis.get_secret_value()
        how = urlencode(
            {
                "prefix": f"{{{store.prefix}}}",
                "pool": store.pool,
                "timeout_s": store.timeout_s,
                "outbox": outbox_path(settings),
                "eviction": "accepted" if store.accept_eviction else "refused",
                **kept,
            }
        )
        return f"{url}{'&' if '?' in url else '?'}{how}"
    return f"sqlite:///{store.sqlite_path(settings.state_dir)}?{urlencode(kept)}"


def outbox_path(settings: Settings) -> Path:
    """The folder of settlements that Redis does not have yet; replicas on one machine may share it."""
    return settings.state_dir / "owed"


def first_key_path(settings: Settings) -> Path:
    """The file that holds the key made at the first start, readable by its owner only."""
    return settings.state_dir / "first-key"


def admissions_path(settings: Settings) -> Path:
    """The folder of verdicts on compressed variants."""
    return settings.state_dir / "admissions"


def snapshot_path(settings: Settings) -> Path:
    """The folder of the snapshot that all processes of this gateway share."""
    return settings.state_dir / "views-0"


def spaces_path(settings: Settings) -> Path:
    """The folder of what the embedder learned, mapped by all processes of this machine."""
    return settings.state_dir / "embedder"

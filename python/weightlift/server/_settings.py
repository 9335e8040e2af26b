"""What the server is told when it starts, with its defaults, and what it refuses to be told."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Settings", "SettingsError", "check_binding", "is_loopback"]

_ORIGIN = re.compile(r"https?://[^/\s*,]+\Z")


class SettingsError(ValueError):
    """The server cannot be started like this; the message says what to say instead."""


@dataclass(frozen=True)
class Settings:
    """How the server behaves; sizes are in bytes, times in seconds.

    Attributes:
        root: The directory that is served.
        token: Bearer token that writes need; None: nobody needs one.
        private: Reads need the token too.
        read_only: There are no writes at all.
        cors: Origins (``https://example.org``) whose pages may use the server; ``"*"``: any page may read.
        hosts: Names that the server is called by, beside localhost and IP addresses; ``"*"``: any.
        max_upload: Largest upload.
        max_json: Largest ``model.json`` of an upload.
        quota: Most bytes that the directory may hold; None: as much as the disk has.
        max_uploads: Uploads at one time.
        rate: Requests a second that one client may make in the long run; 0: any number.
        idle_timeout: An upload that sends nothing for so long is given up.
        upload_timeout: An upload that takes longer is given up.
        checksums: Give models that are uploaded without checksums a CRC-32C of each weight.
    """

    root: Path
    token: str | None = None
    private: bool = False
    read_only: bool = False
    cors: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    max_upload: int = 16 << 30
    max_json: int = 64 << 20
    quota: int | None = None
    max_uploads: int = 8
    rate: float = 200.0
    idle_timeout: float = 30.0
    upload_timeout: float = 3600.0
    checksums: bool = True

    def __post_init__(self) -> None:
        """SettingsError for what makes no sense."""
        if self.token is not None and (not self.token.strip() or not self.token.isascii() or " " in self.token):
            raise SettingsError("the token is empty, or holds spaces or characters that are not ASCII")
        if self.private and self.token is None:
            raise SettingsError("to ask for a token on reads, there must be one: set --token or WEIGHTLIFT_TOKEN")
        for origin in self.cors:
            if origin != "*" and not _ORIGIN.match(origin):
                raise SettingsError(f"{origin!r} is not an origin: write it as https://example.org, without a path")


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server that is bound to ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_binding(settings: Settings, host: str, *, insecure: bool) -> None:
    """SettingsError for a server that strangers could write to."""
    if is_loopback(host) or settings.token is not None or insecure:
        return
    if settings.read_only:
        raise SettingsError(
            f"{host} can be reached from other machines, and everybody there could read: "
            "set a token with --private, or say --insecure"
        )
    raise SettingsError(
        f"{host} can be reached from other machines, and everybody there could write: "
        "set --token or WEIGHTLIFT_TOKEN, or say --insecure"
    )

"""What encrypts the answers that are kept: nothing, or Fernet under the key of the settings."""

from __future__ import annotations

from router.errors import SettingsError
from router.ports import Cipher
from router.settings.extras import install_line
from router.settings.sections import Responses


class NoCipher:
    """Stores it as it is. See Cipher."""

    def encrypt(self, data: bytes) -> bytes:
        """The same."""
        return data

    def decrypt(self, token: bytes) -> bytes:
        """The same."""
        return token


def cipher_of(settings: Responses) -> Cipher:
    """Raises: SettingsError for a key that is none, or without the extra."""
    if settings.key is None:
        return NoCipher()
    try:
        from cryptography.fernet import Fernet  # noqa: PLC0415  (an extra)

        return Fernet(settings.key.get_secret_value().encode())
    except ImportError as error:
        raise SettingsError(
            f"responses.key needs the extra `encryption`: {install_line(['encryption'])}", param="responses.key"
        ) from error
    except ValueError as error:
        raise SettingsError("responses.key: expected 32 bytes in URL-safe base64", param="responses.key") from error

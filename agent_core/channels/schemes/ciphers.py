"""AES in CBC mode with PKCS#7 padding, as Feishu, WeCom, WeChat and DingTalk use it."""

from __future__ import annotations


def decrypt_cbc(key: bytes, iv: bytes, data: bytes) -> bytes:
    """The padded clear bytes of whole blocks."""
    # Loaded only where something encrypted comes in: the library takes long to load.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    return decryptor.update(data) + decryptor.finalize()


def encrypt_cbc(key: bytes, iv: bytes, data: bytes) -> bytes:
    """The encrypted form of padded bytes."""
    # Loaded only then, for the reason above.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def padded(data: bytes, block: int) -> bytes:
    """The bytes with PKCS#7 padding to whole blocks."""
    count = block - len(data) % block
    return data + bytes([count]) * count


def unpadded(data: bytes, block: int) -> bytes | None:
    """The bytes without their padding, every byte of which is checked; None where it is wrong."""
    count = data[-1] if data else 0
    if not 1 <= count <= block or count > len(data) or data[-count:] != bytes([count]) * count:
        return None
    return data[:-count]

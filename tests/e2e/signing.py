"""Certificates and signatures of images, made as their owners make them (Glance's guide on signed images)."""

import base64
import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
    "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


class Holder:
    """A key with its certificate: of an authority, or of one that signs images."""

    def __init__(self, name, issuer=None, authority=True, days=(-1, 365), curve=None):
        self.key = ec.generate_private_key(curve) if curve else rsa.generate_private_key(65537, 2048)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        usage = "key_cert_sign" if authority else "digital_signature"
        by = issuer or self
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(by.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**{one: one == usage for one in USAGES}), critical=True)
            .sign(by.key, hashes.SHA256())
        )

    def sign(self, data):
        """Base64, as the image property has it."""
        method = hashes.SHA256()
        if isinstance(self.key, rsa.RSAPrivateKey):
            salted = padding.PSS(mgf=padding.MGF1(method), salt_length=padding.PSS.MAX_LENGTH)
            made = self.key.sign(data, salted, method)
        else:
            made = self.key.sign(data, ec.ECDSA(method))
        return base64.b64encode(made).decode()

    def store(self, sdk):
        """Puts the certificate into the key manager; gives its id."""
        pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        secret = sdk.key_manager.create_secret(
            name="certificate", secret_type="certificate", payload=base64.b64encode(pem).decode(),
            payload_content_type="application/octet-stream", payload_content_encoding="base64",
        )  # fmt: skip
        return (secret.secret_ref or secret.id).rstrip("/").rsplit("/", 1)[-1]

    def properties(self, data, certificate):
        """The four properties of an image with these bytes, the certificate being under this id."""
        kind = "RSA-PSS" if isinstance(self.key, rsa.RSAPrivateKey) else f"ECC_{self.key.curve.name.upper()}"
        return {
            "img_signature": self.sign(data),
            "img_signature_hash_method": "SHA-256",
            "img_signature_key_type": kind,
            "img_signature_certificate_uuid": certificate,
        }


class Chain:
    """An authority that signed itself, one below it, and the holder of a key for images; in the key manager."""

    def __init__(self, sdk, curve=None):
        root = Holder("root")
        middle = Holder("middle", root)
        self.signer = Holder("signer", middle, authority=False, curve=curve)
        self.trusted = [root.store(sdk), middle.store(sdk)]
        self.certificate = self.signer.store(sdk)

    def properties(self, data):
        return self.signer.properties(data, self.certificate)


def upload(sdk, name, data, properties, disk_format="raw"):
    """An image of the caller's project; gives it once it is active."""
    made = sdk.image.create_image(
        name=name, disk_format=disk_format, container_format="bare", visibility="private", **properties
    )
    answer = sdk.image.put(f"/images/{made.id}/file", data=data, headers={"Content-Type": "application/octet-stream"})
    answer.raise_for_status()
    return sdk.image.get_image(made.id)

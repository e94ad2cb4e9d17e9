"""A certificate authority for a test, made with the openssl program."""

import subprocess
from pathlib import Path

from tests.support.requirements import require

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """An authority with its files in `folder`, made at once. `ca_file` verifies the certificates that it issues."""

    def __init__(self, folder: Path) -> None:
        require("openssl")
        self._folder = folder
        self.ca_file = folder / "ca.pem"
        folder.mkdir(parents=True)
        self._openssl("req", "-x509", *_NEW_KEY, "-days", "30", "-subj", f"/CN={folder.name}",
                      "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip

    def issue(self, name: str, *, address: str = "127.0.0.1") -> tuple[Path, Path]:
        """Issue a certificate for `name`, a server at `address`. Returns the PEM files of certificate and key."""
        (self._folder / f"{name}.ext").write_text(f"subjectAltName=IP:{address}\n")
        self._openssl("req", *_NEW_KEY, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                      "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip
        return self._folder / f"{name}.pem", self._folder / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self._folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"openssl {' '.join(arguments)} failed:\n{done.stderr}")

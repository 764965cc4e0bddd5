"""The programs of infra/compose.yaml without containers: its commands, environments and checks, hostnames replaced."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.miniature import ROOT, free_ports

FILE = ROOT / "infra" / "compose.yaml"
EXAMPLE = ROOT / "infra" / ".env.example"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<words>[^${}]*))?\}")  # a default may hold another
PORTS = {"postgres": 5432, "store": 7070, "prefect": 4200, "mlflow": 5000, "prometheus": 9090}
DEBIAN = ("postgresql-15", "postgresql-client-15")
NOBODY = 65534


def content() -> dict[str, Any]:
    """Read the file, its anchors merged, its variables as they stand."""
    return dict(yaml.safe_load(FILE.read_text()))


def services() -> dict[str, Any]:
    """Read the services."""
    return dict(content()["services"])


def documented() -> dict[str, str]:
    """Return the variables of .env.example with their values, those in comments, too."""
    found = re.findall(r"^(?:# )?([A-Z_]+)=(.*?)(?: {2,}.*| +#.*)?$", EXAMPLE.read_text(), re.MULTILINE)
    return {name: value.strip() for name, value in found}


def prepared(folder: Path) -> dict[str, str]:
    """Run prepare.sh in a copy of infra; return the variables that it left."""
    (folder / "infra").mkdir(parents=True)
    for name in ("prepare.sh", ".env.example"):
        shutil.copy(ROOT / "infra" / name, folder / "infra")
    subprocess.run(["sh", folder / "infra/prepare.sh"], check=True, capture_output=True)
    lines = (folder / "infra/.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def filled(text: str, variables: Mapping[str, str]) -> str:
    """Put variables into a text as Compose does; `KeyError` where one is wanted and empty."""

    def value(found: re.Match[str]) -> str:
        given = variables.get(found["name"], "")
        if given or found["kind"] == "-":
            return given or found["words"]
        raise KeyError(f"{found['name']}: {found['words']}")

    while VARIABLE.search(text):
        text = VARIABLE.sub(value, text)
    return text


@dataclass
class Composed:
    """The services of the file on loopback: where each listens, and what was started."""

    folder: Path
    variables: dict[str, str]
    ports: dict[str, int] = field(default_factory=lambda: dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def here(self, service: str, text: str) -> str:
        """Return a text of the file as it is here: its values, addresses and mounted files."""
        text = filled(text, self.variables).replace("0.0.0.0", "127.0.0.1")
        text = re.sub(r"(?<![\w.])(/tmp|/var/lib)\b", str(self.folder), text)
        text = re.sub(rf"^postgres$|\b({'|'.join(PORTS)})(?=:\d)", "127.0.0.1", text)
        for name, port in PORTS.items():
            text = re.sub(rf"\b{port}\b", str(self.ports[name]), text)
        for mount in services()[service].get("volumes", ()):
            source, _, target = (mount if isinstance(mount, str) else "::").removesuffix(":ro").partition(":")
            if source.startswith("./"):
                text = text.replace(target, str(ROOT / "infra" / source))
        return text

    def environment(self, service: str) -> dict[str, str]:
        """Return a service's environment here: that of the file, and a PATH."""
        given = services()[service]["environment"]
        path = os.pathsep.join([str(Path(sys.executable).parent), str(postgres_programs()), os.environ["PATH"]])
        return {"PATH": path} | {name: self.here(service, str(value)) for name, value in given.items()}

    def command(self, service: str) -> list[str]:
        """Return a service's command here."""
        return [self.here(service, word) for word in services()[service]["command"]]

    def url(self, service: str) -> str:
        """Return where a service listens here."""
        return f"http://127.0.0.1:{self.ports[service]}"

    def spawn(self, service: str, command: list[Any], environment: Mapping[str, str], **more: Any) -> None:
        """Start a program, its words in a log."""
        with self.log(service).open("ab") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            process = subprocess.Popen(command, env=environment, start_new_session=True, **streams, **more)
        self.running[service] = process

    def log(self, service: str) -> Path:
        """Return where a service's words are."""
        return self.folder / f"{service}.log"

    def start(self, service: str) -> None:
        """Start one of our services as the file says, and wait until the file's check is content."""
        self.spawn(service, self.command(service), self.environment(service), cwd=self.folder)
        self.wait(service)

    def wait(self, service: str, timeout_s: float = 240) -> None:
        """Wait until the check of the file is content."""
        deadline = time.monotonic() + timeout_s
        while not self.healthy(service):
            dead = self.running[service].poll() is not None
            assert not dead and time.monotonic() < deadline, self.log(service).read_text()[-3000:]
            time.sleep(0.5)

    def healthy(self, service: str) -> bool:
        """Run the check of the file."""
        _, *words = [self.here(service, word) for word in services()[service]["healthcheck"]["test"]]
        return subprocess.run(words, env=self.environment(service), capture_output=True).returncode == 0

    def once(self, service: str) -> subprocess.CompletedProcess[str]:
        """Run a service that ends by itself."""
        return subprocess.run(
            self.command(service), env=self.environment(service), cwd=self.folder, text=True, capture_output=True
        )

    def stop(self, service: str, number: int = signal.SIGTERM, timeout_s: float = 60) -> None:
        """End a service and all that it started."""
        process = self.running.pop(service)
        process.send_signal(number)
        try:
            process.wait(timeout_s)
        finally:
            with contextlib.suppress(ProcessLookupError):  # what is left of it, as at the end of a container
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start_postgres(self) -> None:
        """Start PostgreSQL on its folder, made first where there is none, as another user where we are root."""
        programs, data, first = postgres_programs(), self.folder / "databases", False
        environment, other = self.environment("postgres"), {}
        if os.getuid() == 0:
            other = {"user": NOBODY, "group": NOBODY, "extra_groups": ()}
        if not data.exists():
            first = True
            data.mkdir(mode=0o700)
            password = data.parent / "password"
            password.write_text(environment["POSTGRES_PASSWORD"])
            if other:
                shutil.chown(data, NOBODY, NOBODY)
                shutil.chown(password, NOBODY, NOBODY)
            words = environment["POSTGRES_INITDB_ARGS"].split()
            words += ["--username=postgres", f"--pwfile={password}", "--locale=C.UTF-8", "--encoding=UTF8"]
            initdb = [programs / "initdb", f"--pgdata={data}", *words]
            subprocess.run(initdb, check=True, capture_output=True, cwd="/", env=environment, **other)
            password.unlink()
        words = ["-h", "127.0.0.1", "-p", str(self.ports["postgres"]), "-k", ""]
        self.spawn("postgres", [programs / "postgres", "-D", data, *words], environment, cwd="/", **other)
        self.wait("postgres")
        if first:
            self.psql("postgres", "--file", ROOT / "infra/databases.sql")

    def psql(self, database: str, *words: Any) -> str:
        """Run psql as the superuser."""
        own = self.environment("postgres")
        own |= {"PGPASSWORD": own["POSTGRES_PASSWORD"], "PGHOST": "127.0.0.1", "PGPORT": str(self.ports["postgres"])}
        command = [postgres_programs() / "psql", "-v", "ON_ERROR_STOP=1", "-qAt", "-U", "postgres", "-d", database]
        done = subprocess.run([*command, *words], env=own, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start_store(self) -> None:
        """Start an S3-compatible server that checks signatures, with a key of its own making: put into `variables`."""
        import boto3

        words = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(self.ports["store"])]
        self.spawn("store", words, {"PATH": os.environ["PATH"], "HOME": str(self.folder)})
        made = {"aws_access_key_id": "first", "aws_secret_access_key": "first", "region_name": "us-east-1"}
        until_answers(f"{self.url('store')}/moto-api/data.json")
        users = boto3.client("iam", endpoint_url=self.url("store"), **made)
        users.create_user(UserName="engineworks")
        allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        users.put_user_policy(UserName="engineworks", PolicyName="all", PolicyDocument=json.dumps(allowed))
        key = users.create_access_key(UserName="engineworks")["AccessKey"]
        self.variables |= {"STORE_KEY": key["AccessKeyId"], "STORE_SECRET": key["SecretAccessKey"]}
        demand = f"{self.url('store')}/moto-api/reset-auth"  # from now on a signature is wanted
        urllib.request.urlopen(urllib.request.Request(demand, b"0", {"Content-Type": "text/plain"})).close()

    def end(self) -> None:
        """End all, the newest first."""
        for service in reversed(list(self.running)):
            self.stop(service, signal.SIGINT if service == "postgres" else signal.SIGTERM)


def until_answers(url: str, timeout_s: float = 60) -> None:
    """Wait until an address answers 200."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < deadline, url
            time.sleep(0.2)


def postgres_programs() -> Path:
    """Return where PostgreSQL's programs are: the system's, or Debian's packages, unpacked below .state/serving."""
    found = Path("/usr/lib/postgresql/15/bin")
    unpacked = ROOT / ".state" / "serving" / "postgresql"
    if found.exists():
        return found
    if not unpacked.exists():
        aside = unpacked.with_name("postgresql.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        done = subprocess.run(["apt-get", "download", *DEBIAN], cwd=aside, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no PostgreSQL 15: apt-get download {' '.join(DEBIAN)}: {done.stderr.strip()}")
        for archive in aside.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, aside], check=True)
            archive.unlink()
        aside.rename(unpacked)
    return unpacked / "usr/lib/postgresql/15/bin"

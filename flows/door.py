"""The public door: nginx before the servers, with the rules of infra/door and this checkout's addresses and keys."""

import contextlib
import os
import pwd
import resource
import shutil
import signal
import subprocess
from pathlib import Path

from flows import addresses, tokens
from flows.replicas import knobs, replicas
from tasks.settings import STATE

RULES = Path("infra/door")
FOLDER = STATE / "door"
PROGRAM = STATE / "serving" / "nginx"
PACKAGES = ("nginx", "libnginx-mod-http-js")
MODULE = Path("usr/lib/nginx/modules/ngx_http_js_module.so")
WORKERS = 4  # per core: one that throws a large refused body away holds up the clients of few
WAIT_S = 2.0  # that a request beyond its key's share of a second is held back at most, before it is refused
CONNECTIONS = 8192  # of a worker: each request under way has one to its client and one to a server

CONFIGURATION = """\
load_module "{module}";
{user}daemon off;
pid nginx.pid;
error_log stderr crit;
worker_processes {workers};
worker_rlimit_nofile {files};
worker_shutdown_timeout {timeout_s}s;
events {{ worker_connections {connections}; }}
http {{
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    map_hash_bucket_size 128;
    map $http_authorization $client {{
        default "";
{keys}
    }}
    map "" $max_body_mb {{ default {max_body_mb}; }}
    map $client $max_in_flight {{
        "~^throughput/" {throughput};
        default {realtime};
    }}
    map "" $max_requests_per_s {{ default {rate}; }}
    limit_req_zone $who zone=rate:1m rate={rate}r/s;
    limit_req zone=rate burst={waiting} delay={realtime};
    client_max_body_size {max_body_mb}m;
    proxy_read_timeout {timeout_s}s;
    grpc_read_timeout {timeout_s}s;
    upstream triton_http {{
        zone triton_http 64k;
{http}
        keepalive 64;
    }}
    upstream triton_grpc {{
        zone triton_grpc 64k;
{grpc}
        keepalive 64;
    }}
    include rules/door.conf;
    server {{
        listen {listen_http} backlog=4096;
        include rules/http.conf;
    }}
    server {{
        listen {listen_grpc} http2 backlog=4096;
        include rules/grpc.conf;
    }}
}}
"""

SHARE = """\
limit_conn realtime {realtime};
limit_conn throughput {throughput};
"""


def install() -> None:
    """Leave nginx and its JavaScript module below .state/serving, where the system has not both; install nothing."""
    if system() or (PROGRAM / MODULE).exists():
        return
    aside = PROGRAM.with_name("nginx.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=aside, check=True, text=True, capture_output=True)
        for archive in aside.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, aside], check=True, text=True, capture_output=True)
            archive.unlink()
    except (OSError, subprocess.CalledProcessError) as error:
        reason = str(getattr(error, "stderr", "") or error).strip()
        raise ValueError(
            f"no nginx with JavaScript here: {reason}\ninstall it: apt-get install {' '.join(PACKAGES)}"
        ) from None
    shutil.rmtree(PROGRAM, ignore_errors=True)
    aside.rename(PROGRAM)


def system() -> bool:
    """Tell whether the system has nginx and its JavaScript module."""
    return shutil.which("nginx") is not None and (Path("/") / MODULE).exists()


def command() -> list[str]:
    """Return what starts the door, its configuration written."""
    write()
    program = shutil.which("nginx") if system() else str((PROGRAM / "usr/sbin/nginx").resolve())
    return [str(program), "-e", "stderr", "-p", f"{FOLDER.absolute()}/", "-c", "nginx.conf"]


def admit(name: str, kind: str) -> Path:
    """Make a client's key of a class, or leave the one it has, and have a running door know it; return the key's file.

    The door takes the keys that are there now: that of a removed file opens it no more.
    """
    path = tokens.issue(name, kind)
    write()
    running = FOLDER / "nginx.pid"
    if running.exists():
        with contextlib.suppress(ProcessLookupError):  # the door was killed: it starts with the new keys
            os.kill(int(running.read_text()), signal.SIGHUP)
    return path


def write() -> None:
    """Write the configuration: where the door listens, the servers behind it, the keys, the limits."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rules = FOLDER / "rules"
    rules.unlink(missing_ok=True)
    rules.symlink_to(RULES.absolute())
    given, servers = knobs(), replicas()  # each named twice: a connection kept from before may be broken, too
    host = addresses.listen()
    host = f"[{host}]" if ":" in host else host
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    text = CONFIGURATION.format(
        module=Path("/") / MODULE if system() else (PROGRAM / MODULE).absolute(),
        user=f"user {pwd.getpwuid(0).pw_name};\n" if os.getuid() == 0 else "",  # else nobody, who reads nothing here
        files=4 * CONNECTIONS if files == resource.RLIM_INFINITY else min(4 * CONNECTIONS, files),
        connections=CONNECTIONS,
        workers=WORKERS * (os.cpu_count() or 1),
        keys="\n".join(f'        "Bearer {key}" {name};' for name, key in tokens.keys().items()),
        http="\n".join(f"        server {each.http} max_fails=0;" for each in 2 * servers),
        grpc="\n".join(f"        server {each.grpc} max_fails=0;" for each in 2 * servers),
        listen_http=f"{host}:{addresses.port('HTTP')}",
        listen_grpc=f"{host}:{addresses.port('GRPC')}",
        max_body_mb=given.max_body_mb,
        realtime=given.realtime.max_in_flight,
        throughput=given.throughput.max_in_flight,
        rate=given.max_requests_per_s,
        waiting=given.realtime.max_in_flight + round(WAIT_S * given.max_requests_per_s),
        timeout_s=given.timeout_s,
    )
    share = SHARE.format(realtime=given.realtime.max_in_flight, throughput=given.throughput.max_in_flight)
    tokens.write(FOLDER / "share.conf", share)
    tokens.write(FOLDER / "nginx.conf", text)

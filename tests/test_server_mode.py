"""Server mode: what infra/compose.yaml promises, and the same wiring for real, without containers."""

import base64
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests import composed, miniature
from tests.composed import Composed
from tests.conftest import Miniature
from tests.miniature import ROOT
from tests.test_x_kills import until

OURS = {"prefect", "mlflow", "buckets", "engineworks"}
SECRETS = sorted(name for name, value in composed.documented().items() if not value)
NIGHTLY = {"run", "retrain", "monitor", "requalify"}
UNKNOWN = "00000000-0000-4000-8000-000000000000"
OUTAGE_S = 20
PATIENCE_S = 300  # that a busy machine keeps, too


# The file.


def test_the_file_is_of_the_schema() -> None:
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(composed.FILE)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_variable_is_documented_and_a_secret_has_no_default() -> None:
    used = dict(re.findall(r"\$\{(\w+)(?::([-?]))?", composed.FILE.read_text()))
    assert used.keys() == composed.documented().keys()
    assert {name for name, kind in used.items() if kind == "?"} == {*SECRETS, "ENGINEWORKS_UID", "ENGINEWORKS_GID"}
    for name, service in composed.services().items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|ACCESS_KEY|AUTH_STRING", variable):
                assert re.fullmatch(r"(engineworks:)?\$\{[A-Z_]+:\?[^}]+\}", value), f"{name}: {variable}"


def test_prepare_makes_secrets_once_and_nobody_else_reads_them(tmp_path: Path) -> None:
    made = composed.prepared(tmp_path)
    file = tmp_path / "infra/.env"
    assert all(re.fullmatch("[0-9a-f]{48}", made[name]) for name in SECRETS)
    assert len({made[name] for name in SECRETS}) == len(SECRETS)
    assert (made["ENGINEWORKS_UID"], made["ENGINEWORKS_GID"]) == (str(os.getuid()), str(os.getgid()))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and (tmp_path / "infra/store").is_dir()
    before = file.read_text()
    again = subprocess.run(["sh", tmp_path / "infra/prepare.sh"], capture_output=True, text=True)
    assert "already" in again.stdout and file.read_text() == before
    composed.filled(composed.FILE.read_text(), made)  # nothing is left open
    ignored = subprocess.run(["git", "check-ignore", "infra/.env", "infra/store/x"], cwd=ROOT, capture_output=True)
    assert ignored.stdout.count(b"\n") == 2 or not (ROOT / ".git").exists()


def test_what_is_mounted_or_built_from_is_in_the_repository() -> None:
    for name, service in composed.services().items():
        for mount in service.get("volumes", ()):
            source = mount["source"] if isinstance(mount, dict) else mount.partition(":")[0]
            if source.startswith(("./", "..")):
                assert source == "./store" or (ROOT / "infra" / source).exists(), f"{name}: {source}"
            else:
                assert source in {*composed.content()["volumes"], "/dev/null"}, f"{name}: {source}"
    docker = (ROOT / composed.services()["mlflow"]["build"]["dockerfile"]).read_text()
    version = re.search(r"^UV := (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version is not None and f"uv=={version[1]}" in docker and "FROM python:3.11." in docker
    assert {composed.services()[name]["image"] for name in OURS} == {f"engineworks:{project['version']}"}


def test_every_service_runs_pinned_without_root_and_without_what_it_does_not_need() -> None:
    for name, service in composed.services().items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-[a-z]+)?", service["image"]), name
        assert service["user"].startswith(("$", "1", "4", "6", "9")) and service["read_only"], name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert ("healthcheck" in service) is (name != "buckets") and "privileged" not in service, name


def test_who_waits_for_whom_and_who_sees_whom() -> None:
    services, networks = composed.services(), composed.content()["networks"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], name
        for port in service.get("ports", ()):
            assert composed.filled(port, {}).startswith("127.0.0.1:") and "public" in service["networks"], name
    seen = {net: {name for name in services if net in services[name].get("networks", ())} for net in networks}
    assert seen["databases"] == {"postgres", "prefect", "mlflow"}
    assert seen["objects"] == {"store", "buckets", "mlflow", "engineworks"}
    assert seen["public"] == {name for name, service in services.items() if "ports" in service}
    assert {net for net, how in networks.items() if how and how["internal"]} == seen.keys() - {"public"}


def test_grafana_finds_prometheus_and_the_folder_of_the_dashboard() -> None:
    folder = ROOT / "infra/observability/grafana"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://engineworks:9090"
    assert composed.services()["prometheus"]["network_mode"] == "service:engineworks"
    (provider,) = yaml.safe_load((folder / "dashboards/engineworks.yml").read_text())["providers"]
    mounts = composed.services()["grafana"]["volumes"]
    assert f"./observability:{provider['options']['path']}:ro" in mounts
    assert "./observability/grafana:/etc/grafana/provisioning:ro" in mounts


# The same wiring for real.


@pytest.fixture(scope="module")
def server() -> Iterator[Composed]:
    """PostgreSQL, an S3-compatible server, Prefect and MLflow, as the file says."""
    folder = Path(tempfile.mkdtemp(prefix="server-"))
    folder.chmod(0o755)  # PostgreSQL runs as another user where we are root
    system = Composed(folder, composed.prepared(folder))
    try:
        system.start_postgres()
        system.start_store()
        made = system.once("buckets")
        assert made.returncode == 0, made.stderr
        for name in ("prefect", "mlflow"):
            system.spawn(name, system.command(name), system.environment(name), cwd=folder)
        for name in ("prefect", "mlflow"):
            system.wait(name)
        yield system
    finally:
        system.end()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def moved(ran: Miniature, server: Composed) -> Iterator[Miniature]:
    """The miniature as the file's `engineworks`: worker, replicas, door and supervisor, all else on the servers."""
    assert ran.shell("make down").returncode == 0
    system = replace(ran, environment=ran.environment | server.environment("engineworks"))
    mark = {"pid": 2**22, "created": 0.0, "pipeline": "fashion", "mlflow_run_id": "0" * 32}
    (ran.folder / f".state/runs/{UNKNOWN}.json").write_text(json.dumps(mark))  # of a kill, by the servers before
    server.spawn("engineworks", server.command("engineworks"), system.environment, cwd=ran.folder)
    try:
        composed.until_answers(f"{system.url('HTTP')}/v2/health/live", PATIENCE_S)
        until(lambda: prefect(server, "deployments/filter", {}), PATIENCE_S)
        yield system
    finally:
        server.stop("engineworks")
        alive = subprocess.run(["pgrep", "-f", str(ran.folder)], capture_output=True, text=True).stdout
        assert ran.shell("make up").returncode == 0
    assert alive == "", "its processes outlive the container"


def asked(url: str, body: Any = None, credentials: str = "", **headers: str) -> tuple[int, Any]:
    """Ask a JSON API as user:password; return its status and its answer."""
    if credentials:
        headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def prefect(server: Composed, path: str, body: Any = None) -> Any:
    """Ask Prefect's API."""
    code, answer = asked(
        f"{server.url('prefect')}/api/{path}", body, f"engineworks:{server.variables['PREFECT_PASSWORD']}"
    )
    assert code in (200, 201), answer
    return answer


def mlflow(server: Composed, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Ask MLflow's API."""
    return asked(
        f"{server.url('mlflow')}/{path}", body, f"engineworks:{server.variables['MLFLOW_PASSWORD']}", **headers
    )


def python(system: Miniature, code: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    """Run Python in the miniature with its environment."""
    words = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(
        words, cwd=system.folder, env=system.environment, text=True, capture_output=True, timeout=timeout_s
    )


@pytest.mark.slow
def test_prefect_and_mlflow_let_nobody_in_without_a_password(server: Composed) -> None:
    search = f"{server.url('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1"
    for credentials in ("", "engineworks:wrong", "admin:password1234"):
        assert asked(search, credentials=credentials)[0] == 401
        assert asked(f"{server.url('prefect')}/api/flows/filter", {}, credentials)[0] == 401
    assert mlflow(server, "api/2.0/mlflow/experiments/search?max_results=1")[0] == 200
    assert prefect(server, "flows/filter", {}) == []
    page = asked(f"{server.url('prefect')}/ui-settings")[1]
    assert page["auth"] == "BASIC" and page["api_url"] == f"{server.url('prefect')}/api"


@pytest.mark.slow
def test_mlflow_refuses_other_hosts_other_sites_and_jobs(server: Composed) -> None:
    search = "api/2.0/mlflow/experiments/search?max_results=1"
    assert mlflow(server, search, Host="evil.example")[0] == 403
    create = "api/2.0/mlflow/experiments/create"
    assert mlflow(server, create, {"name": "x"}, Origin="https://evil.example")[0] == 403
    code, words = mlflow(server, "ajax-api/3.0/jobs/", {"job_name": "invoke_scorer", "params": {}})
    assert code >= 400 and "job execution feature is not enabled" in words, words
    workers = [each.cmdline() for each in psutil.Process(server.running["mlflow"].pid).children(recursive=True)]
    assert not [words for words in workers if "huey" in " ".join(words)]


@pytest.mark.slow
def test_an_owner_of_one_database_gets_into_no_other(server: Composed) -> None:
    import psycopg2

    own = {"host": "127.0.0.1", "port": server.ports["postgres"], "user": "prefect"}
    secret = server.variables["PREFECT_DATABASE_PASSWORD"]
    psycopg2.connect(dbname="prefect", password=secret, **own).close()
    for database, password in (("prefect", "wrong"), ("mlflow", secret), ("mlflow_users", secret)):
        with pytest.raises(psycopg2.OperationalError, match=r"password|permission"):
            psycopg2.connect(dbname=database, password=password, **own)


@pytest.mark.slow
def test_the_store_checks_signatures(server: Composed) -> None:
    import boto3
    from botocore.exceptions import ClientError

    own = {"endpoint_url": server.url("store"), "region_name": "us-east-1"}
    key, secret = server.variables["STORE_KEY"], server.variables["STORE_SECRET"]
    client = boto3.client("s3", aws_access_key_id=key, aws_secret_access_key=secret, **own)
    assert {each["Name"] for each in client.list_buckets()["Buckets"]} == {"mlflow", "dvc"}
    with pytest.raises(ClientError, match="signature"):
        boto3.client("s3", aws_access_key_id=key, aws_secret_access_key="wrong", **own).list_buckets()


@pytest.fixture
def elsewhere(server: Composed, tmp_path: Path) -> Iterator[Path]:
    """A checkout for workers of other pools; their deployments go afterwards."""
    (tmp_path / "copy").mkdir()
    yield miniature.copy(tmp_path / "copy")
    for each in prefect(server, "deployments/filter", {}):
        request = urllib.request.Request(f"{server.url('prefect')}/api/deployments/{each['id']}", method="DELETE")
        word = base64.b64encode(f"engineworks:{server.variables['PREFECT_PASSWORD']}".encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
        urllib.request.urlopen(request).close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_the_same_deployments_serve_a_pool_of_another_type(server: Composed, elsewhere: Path, kind: str) -> None:
    """They are applied, and runs are scheduled for its worker, who is told where the checkout lies; none is started."""
    own = miniature.environment(elsewhere) | server.environment("engineworks")
    own |= {"ENGINEWORKS_POOL": f"{kind}s", "ENGINEWORKS_CHECKOUT": "/engineworks"}
    create = [sys.executable, "-m", "prefect", "--no-prompt", "work-pool", "create", f"{kind}s", "--type", kind]
    made = subprocess.run(create, env=own, cwd=elsewhere, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    server.spawn("worker", [sys.executable, "-m", "flows.worker"], own, cwd=elsewhere)
    try:
        until(lambda: f"is of type {kind}: a worker of that type" in server.log("worker").read_text(), PATIENCE_S)
        found = prefect(server, "deployments/filter", {})
        assert len(found) == 7 and {each["work_pool_name"] for each in found} == {f"{kind}s"}
        folders = {step["directory"] for each in found for step in each["pull_steps"][0].values()}
        assert folders == {"/engineworks"}
        wanted = {"scheduled_before": "2100-01-01T00:00:00Z", "limit": 200}
        names = {each["id"]: each["name"] for each in found}

        def offered() -> set[str]:
            runs = prefect(server, f"work_pools/{kind}s/get_scheduled_flow_runs", wanted)
            return {names[each["flow_run"]["deployment_id"]] for each in runs}

        until(lambda: offered() == NIGHTLY, PATIENCE_S)
        assert server.running["worker"].poll() is None
    finally:
        server.stop("worker", signal.SIGINT)
        server.log("worker").unlink()


@pytest.mark.slow
def test_a_run_lands_in_both_servers_and_its_files_in_the_store(server: Composed, moved: Miniature) -> None:
    done = moved.shell("python -m flows.cli run")
    assert done.returncode == 0 and "0 stages ran" in done.stdout, done.stdout
    assert f"Prefect {server.url('prefect')}" in done.stdout and f"MLflow  {server.url('mlflow')}" in done.stdout
    flows = {"flows": {"name": {"any_": ["run"]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    (run,) = prefect(server, "flow_runs/filter", flows)
    assert (
        server.psql("prefect", "--command", "select state_type from flow_run where name = 'fashion'") == "COMPLETED\n"
    )
    rows = "select r.status from runs r join tags t using (run_uuid) where t.key = 'run_key'"
    assert server.psql("mlflow", "--command", rows) == "FINISHED\n"
    paths = [each["Key"] for each in objects(server, "mlflow")]
    assert [path for path in paths if path.endswith("/report.html")] and len(paths) > 20
    assert [path for path in paths if path.endswith(("artifacts/passport.json", "/MLmodel"))]
    left = prefect(server, "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    assert f"({server.url('mlflow')}/#/experiments/" in " ".join(str(each["data"]) for each in left)
    facts = json.loads(moved.shell("python -m flows.cli status --json").stdout)
    assert facts["prefect_answers"] and facts["mlflow"]["champion"] and facts["mlflow"]["status"] == "FINISHED", facts


def objects(server: Composed, bucket: str) -> list[dict[str, Any]]:
    """List what a bucket holds."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=server.url("store"),
        region_name="us-east-1",
        aws_access_key_id=server.variables["STORE_KEY"],
        aws_secret_access_key=server.variables["STORE_SECRET"],
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [each for page in pages for each in page.get("Contents", ())]


@pytest.mark.slow
def test_the_champion_is_loaded_and_a_pickle_is_not(server: Composed, moved: Miniature) -> None:
    champion = (
        "import mlflow, numpy\nmodel = mlflow.pyfunc.load_model('models:/fashion@champion')\n"
        "print(model.predict(numpy.zeros((1, 1, 28, 28), numpy.float32))['label'])"
    )
    done = python(moved, champion)
    assert done.returncode == 0, done.stderr
    pickled = (
        "import mlflow\nclass Echo(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n        return model_input\n"
        "with mlflow.start_run():\n"
        "    info = mlflow.pyfunc.log_model(name='echo', python_model=Echo(), pip_requirements=[])\n"
        "print(info.model_uri)"
    )
    allowed = replace(moved, environment=moved.environment | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"})
    model = python(allowed, pickled).stdout.split()[-1]
    load = f"import mlflow; mlflow.pyfunc.load_model('{model}')"
    assert python(allowed, load).returncode == 0
    refused = python(moved, load)
    assert refused.returncode != 0 and "pickle is disallowed" in refused.stderr
    port = miniature.free_ports(1)[0]
    served = moved.shell(f"mlflow models serve -m {model} --env-manager local --port {port}")
    assert served.returncode != 0 and "pickle is disallowed" in served.stdout, served.stdout[-2000:]


@pytest.mark.slow
def test_the_worker_runs_a_deployment(server: Composed, moved: Miniature) -> None:
    assert not (moved.folder / f".state/runs/{UNKNOWN}.json").exists(), "the worker closed what neither server knows"
    found = {each["name"]: each for each in prefect(server, "deployments/filter", {})}
    assert len(found) == 7 and {each["work_pool_name"] for each in found.values()} == {"engineworks"}
    started = {"parameters": {"pipeline": "fashion"}, "state": {"type": "SCHEDULED"}}
    run = prefect(server, f"deployments/{found['monitor']['id']}/create_flow_run", started)["id"]
    until(
        lambda: prefect(server, f"flow_runs/{run}")["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED"), PATIENCE_S
    )
    state = prefect(server, f"flow_runs/{run}")["state"]
    assert state["type"] == "COMPLETED", state


@pytest.mark.slow
def test_prometheus_starts_as_the_file_says_and_sees_the_supervisor(
    server: Composed,
    moved: Miniature,
    promtool: Path,
) -> None:
    rules = server.folder / "observability"
    shutil.copytree(ROOT / "infra/observability", rules)
    config = rules / "prometheus.yml"
    config.write_text(config.read_text().replace("8002", moved.environment["ENGINEWORKS_METRICS_PORT"]))
    words = [server.here("prometheus", word) for word in composed.services()["prometheus"]["command"]]
    words = [word.replace(str(ROOT / "infra" / "./observability"), str(rules)) for word in words]
    words = [word.replace("=/prometheus", f"={server.folder}/metrics") for word in words]
    listen = f"--web.listen-address=127.0.0.1:{server.ports['prometheus']}"
    server.spawn("prometheus", [promtool.with_name("prometheus"), *words, listen], dict(os.environ))
    try:
        composed.until_answers(f"{server.url('prometheus')}/-/healthy")

        def up() -> bool:
            found = asked(f"{server.url('prometheus')}/api/v1/query?query=engineworks_replica_up")[1]["data"]["result"]
            return len(found) == 2 and all(each["value"][1] == "1" for each in found)

        until(up, PATIENCE_S)
    finally:
        server.stop("prometheus")


@pytest.fixture(scope="module")
def pulled(server: Composed, moved: Miniature) -> Iterator[Miniature]:
    """Push to the store; clone into another folder, and pull there."""
    folder, bare = moved.folder.parent / "pulled", moved.folder.parent / "bare"
    git = f"git --git-dir '{bare}' --work-tree ."
    lines = [
        "set -e; source .venv/bin/activate",
        "dvc remote add --default --force store s3://dvc",
        f"git init -q --bare '{bare}'; {git} add -A",
        f"{git} -c user.name=t -c user.email=t@t commit -qm share",
        "dvc push",
        "dvc remote remove store",
        f"git clone -q '{bare}' '{folder}'; ln -sfn '{moved.folder}/.venv' '{folder}/.venv'",
        f"mkdir -p '{folder}/.state'; ln -sfn '{moved.folder}/.state/serving' '{folder}/.state/serving'",
        f"cd '{folder}'; dvc pull",
    ]
    done = moved.shell("\n".join(lines))
    assert done.returncode == 0, done.stdout
    ports = {k: v for k, v in miniature.environment(folder).items() if re.fullmatch(r"ENGINEWORKS_\w+_PORT", k)}
    ours = moved.environment | ports | {"ENGINEWORKS_MIRROR": "/nowhere", "PYTHONPATH": str(folder)}
    system = replace(moved, folder=folder, environment=ours)
    yield system
    system.shell("python -m flows.cli down")
    for each in (folder, bare):
        shutil.rmtree(each)


@pytest.mark.slow
def test_a_clone_that_pulled_from_the_store_executes_nothing(server: Composed, pulled: Miniature) -> None:
    assert len(objects(server, "dvc")) > 20
    assert "s3://dvc" in (pulled.folder / ".dvc/config").read_text()
    fresh = pulled.shell("source .venv/bin/activate; dvc status")
    assert fresh.stdout.strip() == "Data and pipelines are up to date."
    done = pulled.shell("python -m flows.cli run")
    assert done.returncode == 0 and "0 stages ran" in done.stdout, done.stdout


@pytest.fixture
def long(moved: Miniature) -> Iterator[subprocess.Popen[str]]:
    """A run whose training takes its time and can't reach its target; all is put back."""
    params = moved.folder / "params.yaml"
    before = params.read_text()
    content = yaml.safe_load(before)
    content["pipelines"]["fashion"]["train"] |= {"seed": 7, "target": 0.9999, "schedule_epochs": 3, "max_epochs": 3}
    params.write_text(yaml.safe_dump(content, sort_keys=False))
    run = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run"],
        cwd=moved.folder,
        env=moved.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield run
    finally:
        run.kill()
        run.communicate()
        params.write_text(before)
        again = moved.shell("python -m flows.cli run", timeout_s=5 * PATIENCE_S)
        assert "0 stages ran" in again.stdout, again.stdout  # all of it comes from DVC's cache


@pytest.mark.slow
def test_a_run_outlives_a_database_that_is_away_for_a_while(
    server: Composed, moved: Miniature, long: subprocess.Popen[str]
) -> None:
    until(lambda: list((moved.folder / "models/train").glob("fashion.training/*/curves.csv")), PATIENCE_S)
    server.stop("postgres", signal.SIGQUIT)  # at once, connections and all
    time.sleep(OUTAGE_S)
    assert mlflow(server, "api/2.0/mlflow/experiments/search?max_results=1")[0] >= 500
    server.start_postgres()
    said, _ = long.communicate(timeout=5 * PATIENCE_S)
    assert long.returncode == 3 and "target" in said, said  # recorded, and refused by the gate
    left = "select distinct state_type from flow_run where state_type <> 'SCHEDULED'"
    assert server.psql("prefect", "--command", left) == "COMPLETED\n"
    runs = "select count(distinct run_uuid) from metrics join runs using (run_uuid)"
    curves = f"{runs} where key = 'curves/train_loss' and status = 'FINISHED'"
    assert server.psql("mlflow", "--command", curves) == "2\n"  # that before, and this one


@pytest.mark.slow
def test_no_secret_is_in_a_log_a_list_of_processes_or_what_was_recorded(server: Composed, moved: Miniature) -> None:
    secrets = [server.variables[name] for name in SECRETS if name != "STORE_KEY"]  # which is a name, sent in plain
    texts = {str(path): path.read_text(errors="replace") for path in server.folder.glob("*.log")}
    for place in (".state/logs", ".state/prefect", ".state/pids", ".state/runs", ".dvc", "models", "metrics"):
        for path in (moved.folder / place).rglob("*"):
            if path.is_file() and "cache" not in path.parts:
                texts[str(path)] = path.read_bytes().decode(errors="replace")
    for process in psutil.process_iter(["cmdline"]):
        texts[f"process {process.pid}"] = " ".join(process.info["cmdline"] or ())
    own = server.environment("postgres") | {"PGPASSWORD": server.variables["POSTGRES_PASSWORD"]}
    for database in ("prefect", "mlflow"):
        words = ["pg_dump", "-h", "127.0.0.1", "-p", str(server.ports["postgres"]), "-U", "postgres", database]
        texts[database] = subprocess.run(words, env=own, capture_output=True, text=True, check=True).stdout
    assert "train.target" in texts["mlflow"] and "fashion" in texts["prefect"] and len(texts) > 60
    assert [name for name, text in texts.items() if any(secret in text for secret in secrets)] == []

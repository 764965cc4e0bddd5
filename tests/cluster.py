"""What is wrong with Kubernetes objects, a sentence each: what a schema, a linter and a cluster would say of them."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

Object = dict[str, Any]
OLDEST, NEWEST = "1.33.0", "1.37.0"  # of Kubernetes: that know every field we use
BEFORE = {("Secret", "door-keys"), ("Secret", "door-tls")}  # what README.md has made first
VOLUMES = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def complaints(objects: list[Object]) -> list[str]:
    """Return all that is wrong with what an overlay renders to."""
    looks = (schema, security, resources, selectors, ports, references, rollouts, autoscaling)
    return [sentence for look in looks for sentence in look(objects)]


def find(objects: list[Object], kind: str, name: str) -> Object:
    """Return an object."""
    return next(each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name))


def named(objects: list[Object], kind: str, name: str) -> Object:
    """Return an object that kustomize gave a hash to its name."""
    return next(each for each in objects if each["kind"] == kind and each["metadata"]["name"].startswith(f"{name}-"))


def of_kind(objects: list[Object], *kinds: str) -> Iterator[tuple[str, Object]]:
    """Yield objects with what to call them."""
    for each in objects:
        if each["kind"] in kinds:
            yield f"{each['kind']} {each['metadata']['name']}", each


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield every pod that there will be: labels in metadata, and spec."""
    for name, each in of_kind(objects, "Deployment", "CronJob"):
        yield name, (each["spec"]["jobTemplate"] if each["kind"] == "CronJob" else each)["spec"]["template"]


def containers(pod: Object) -> list[Object]:
    """Return a pod's containers, those that run before and beside the others, too."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def lasting(pod: Object) -> list[Object]:
    """Return the containers that run as long as the pod."""
    return [each for each in containers(pod) if each in pod["spec"]["containers"] or "restartPolicy" in each]


def is_part(wanted: Object, labels: Object) -> bool:
    """Tell whether labels are those that a selector wants."""
    return wanted.items() <= labels.items()


def schema(objects: list[Object], version: str = NEWEST) -> Iterator[str]:
    """Hold each object against the schema of its kind, unknown fields refused."""
    for each in objects:
        if wrong := misfit(json.dumps(each), version):
            yield f"{each['kind']} {each['metadata']['name']}: {wrong}"


@cache  # the overlays have most in common
def misfit(text: str, version: str) -> str:
    """Return what the schema of a Kubernetes version says of an object; empty where nothing."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(json.loads(text), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error).splitlines()[0]
    return ""


def security(objects: list[Object]) -> Iterator[str]:
    """Hold each pod against the Pod Security Standard `restricted`, and to what goes beyond it."""
    for name, pod in pods(objects):
        spec, whole = pod["spec"], pod["spec"].get("securityContext", {})
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: has a service account's token"
        if {"hostNetwork", "hostPID", "hostIPC"} & {key for key, value in spec.items() if value}:
            yield f"{name}: shares something of its node"
        for volume in spec.get("volumes", []):
            if not VOLUMES & set(volume):
                yield f"{name}: volume {volume['name']} is of another kind than {', '.join(sorted(VOLUMES))}"
        for container in containers(pod):
            yield from (f"{name}/{container['name']}: {sentence}" for sentence in narrow(container, whole))


def narrow(container: Object, whole: Object) -> Iterator[str]:
    """Say where a container may do more than it needs; `whole` is the pod's security context."""
    own = container.get("securityContext", {})
    both = whole | own
    if both.get("runAsNonRoot") is not True or both.get("runAsUser", 0) == 0:
        yield "may run as root"
    if both.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "has no seccomp profile RuntimeDefault"
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield "may gain privileges"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "can write to its root file system"
    if own.get("capabilities", {}) != {"drop": ["ALL"]}:
        yield "has capabilities"
    if not re.search(r":v?\d+\.\d+[\w.-]*$", container["image"]):
        yield f"its image {container['image']} names no version"


def resources(objects: list[Object]) -> Iterator[str]:
    """Hold each container to requests and limits, and scratch space to a size."""
    for name, pod in pods(objects):
        for container in containers(pod):
            given = container.get("resources", {})
            for side in ("requests", "limits"):
                if not {"cpu", "memory"} <= given.get(side, {}).keys():
                    yield f"{name}/{container['name']}: has no {side} for processor and memory"
        for volume in pod["spec"].get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{name}: volume {volume['name']} has no limit"


def selectors(objects: list[Object]) -> Iterator[str]:
    """Say which selectors select nothing, or not the own pods."""
    every = [pod["metadata"].get("labels", {}) for _, pod in pods(objects)]
    for name, each in of_kind(objects, "Deployment"):
        labels = each["spec"]["template"]["metadata"]["labels"]
        spread = each["spec"]["template"]["spec"].get("topologySpreadConstraints", [])
        if {one["topologyKey"] for one in spread} < {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}:
            yield f"{name}: is not spread over nodes and zones"
        for selector in (each["spec"]["selector"], *(one["labelSelector"] for one in spread)):
            if not is_part(selector["matchLabels"], labels):
                yield f"{name}: a selector is not that of its own pods"
    for name, each in of_kind(objects, "Service", "PodDisruptionBudget"):
        wanted = each["spec"]["selector"].get("matchLabels", each["spec"]["selector"])
        if not any(is_part(wanted, labels) for labels in every):
            yield f"{name}: selects no pod"
    for name, each in of_kind(objects, "NetworkPolicy"):
        wanted = each["spec"]["podSelector"].get("matchLabels", {})
        if not any(is_part(wanted, labels) for labels in every):
            yield f"{name}: selects no pod"


def number(pod: Object, port: Any) -> int | None:
    """Return the number of a pod's port, given by its name or number; None where none of its containers has it."""
    known = {key: each["containerPort"] for one in lasting(pod) for each in one.get("ports", []) for key in keys(each)}
    return known.get(port)


def keys(port: Object) -> tuple[Any, Any]:
    """Return what a container's port may be called by."""
    return port.get("name"), port["containerPort"]


def ports(objects: list[Object]) -> Iterator[str]:
    """Say which ports of Services, ingresses and probes are nowhere."""
    for name, each in of_kind(objects, "Service"):
        selected = [pod for _, pod in pods(objects) if is_part(each["spec"]["selector"], pod["metadata"]["labels"])]
        for port in each["spec"]["ports"]:
            found = {number(pod, port.get("targetPort", port["port"])) for pod in selected}
            if None in found:
                yield f"{name}: port {port['name']} is in no container"
            elif each["spec"].get("clusterIP") == "None" and found != {port["port"]}:
                yield f"{name}: is headless, and maps no port {port['port']} to {found}"
    for name, each in of_kind(objects, "Ingress"):
        for path in (path for rule in each["spec"]["rules"] for path in rule["http"]["paths"]):
            wanted = path["backend"]["service"]
            there = {
                (one["metadata"]["name"], port["name"])
                for _, one in of_kind(objects, "Service")
                for port in one["spec"]["ports"]
            }
            if (wanted["name"], wanted["port"]["name"]) not in there:
                yield f"{name}: no Service {wanted['name']} with a port {wanted['port']['name']}"
    for name, pod in pods(objects):
        for container in containers(pod):
            for probe in (container[kind] for kind in PROBES if kind in container):
                port = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")
                if port is not None and number(pod, port) is None:
                    yield f"{name}/{container['name']}: a probe asks at port {port}, where nothing is"


def references(objects: list[Object]) -> Iterator[str]:
    """Say which ConfigMaps, secrets, claims, volumes and variables are named and not there."""
    there = {(each["kind"], each["metadata"]["name"]) for each in objects} | BEFORE
    data = {each["metadata"]["name"]: each.get("data", {}) for _, each in of_kind(objects, "ConfigMap")}
    for name, pod in pods(objects):
        volumes = {each["name"]: each for each in pod["spec"].get("volumes", [])}
        for each in volumes.values():
            for key, kind, field in (
                ("configMap", "ConfigMap", "name"),
                ("secret", "Secret", "secretName"),
                ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
            ):
                if key in each and (kind, each[key][field]) not in there:
                    yield f"{name}: no {kind} {each[key][field]}"
        for container in containers(pod):
            maps = [each["configMapRef"]["name"] for each in container.get("envFrom", []) if "configMapRef" in each]
            yield from (f"{name}: no ConfigMap {each}" for each in maps if each not in data)
            known = {key for each in maps for key in data.get(each, {})}
            line = " ".join([*container.get("command", []), *container.get("args", [])])
            for variable in set(re.findall(r"\$\((\w+)\)|\$([A-Z_]{2,})", line)):
                if not set(variable) & known:
                    yield f"{name}/{container['name']}: no variable {''.join(variable)}"
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{name}/{container['name']}: no volume {mount['name']}"


def rollouts(objects: list[Object]) -> Iterator[str]:
    """Say which Deployments have fewer pods for a while than before, or cut off who is being answered."""
    for name, each in of_kind(objects, "Deployment"):
        if each["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxUnavailable") != 0:
            yield f"{name}: a rollout takes pods away before new ones are ready"
        for container in each["spec"]["template"]["spec"]["containers"]:
            for kind in (*PROBES, "lifecycle"):
                if kind not in container:
                    yield f"{name}/{container['name']}: has no {kind}"
        budgets = [
            budget["spec"]
            for _, budget in of_kind(objects, "PodDisruptionBudget")
            if is_part(budget["spec"]["selector"]["matchLabels"], each["spec"]["template"]["metadata"]["labels"])
        ]
        if [one.get("maxUnavailable") for one in budgets] != [1]:
            yield f"{name}: has no budget of one pod that may go at a time"


def autoscaling(objects: list[Object]) -> Iterator[str]:
    """Say which autoscalers scale nothing, or something whose number is set elsewhere, too."""
    for name, each in of_kind(objects, "HorizontalPodAutoscaler"):
        target, spec = each["spec"]["scaleTargetRef"], each["spec"]
        found = [one for _, one in of_kind(objects, target["kind"]) if one["metadata"]["name"] == target["name"]]
        if not found:
            yield f"{name}: there is no {target['kind']} {target['name']}"
        elif "replicas" in found[0]["spec"]:
            yield f"{name}: {target['name']} has a number of replicas of its own, which each apply sets"
        if not 2 <= spec["minReplicas"] < spec["maxReplicas"]:
            yield f"{name}: {spec['minReplicas']} to {spec['maxReplicas']} replicas are no range that stays up"


def open_paths(objects: list[Object]) -> set[tuple[str, str, int]]:
    """Return who may begin to talk to whom, at which port: (from, to, port), those of each side's policies."""
    found = set()
    for _, each in of_kind(objects, "NetworkPolicy"):
        own = text(each["spec"]["podSelector"])
        for side, peers in (("ingress", "from"), ("egress", "to")):
            for rule in each["spec"].get(side, []):
                for peer in rule.get(peers, [{}]):
                    pairs = (text(peer), own) if side == "ingress" else (own, text(peer))
                    selector = each["spec"] if side == "ingress" else peer
                    found |= {(*pairs, at(objects, selector, one["port"])) for one in rule.get("ports", [{"port": 0}])}
    return found


def at(objects: list[Object], selector: Object, port: Any) -> int:
    """Return the number of a port of the pods that a policy or a peer selects."""
    wanted = selector.get("podSelector", {}).get("matchLabels", {})
    found = [number(pod, port) for _, pod in pods(objects) if is_part(wanted, pod["metadata"]["labels"])]
    return port if isinstance(port, int) else next(each for each in found if each is not None)


def text(selector: Object) -> str:
    """Write a selector or a peer: `app=door`, `any namespace, x=y`, `everybody` where it selects all."""
    parts = []
    if "namespaceSelector" in selector:
        labels = selector["namespaceSelector"].get("matchLabels", {})
        parts.append(labels.get("kubernetes.io/metadata.name", "any namespace"))
    labels = (selector.get("podSelector") or selector).get("matchLabels", {})
    parts += [f"{key}={value}" for key, value in labels.items()]
    return ", ".join(parts) or "everybody"

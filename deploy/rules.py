"""`rules.py OUTBOXD PART FILE` checks what no schema can.

It prints a line per mistake, and exits with 1 if there is one. OUTBOXD is the program: it decides
which settings and verbs exist, so that neither can be renamed in one place only.
"""

import json
import pathlib
import re
import subprocess
import sys

import yaml

OUTBOXD = sys.argv[1]
ROOT = pathlib.Path(__file__).parent.parent
# The OpenTelemetry SDK reads these.
OTEL = {
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_SAMPLER",
}

mistakes = []


def need(right, mistake):
    if not right:
        mistakes.append(mistake)


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m)", str(text)).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def settings():
    """The schema of each setting, by section and name."""
    schema = subprocess.run([OUTBOXD, "config", "schema"], check=True, stdout=subprocess.PIPE).stdout
    sections = json.loads(schema)["properties"]

    return {
        (section, name): setting
        for section in sections
        for name, setting in sections[section].get("properties", {}).items()
    }


SETTINGS = settings()
VARIABLES = OTEL | {"OUTBOXD_CONFIG"} | {variable for of in SETTINGS.values() for variable in of["x-environment"]}
# In seconds.
GRACE = seconds(SETTINGS["shutdown", "grace"]["default"])


def setting(where, name):
    need(name in VARIABLES, f"{where}: outboxd has no setting {name}")


def verb(where, *words):
    """With its flags. `--help` runs nothing, and outboxd refuses unknown words before it."""
    asked = subprocess.run([OUTBOXD, *words, "--help"], capture_output=True, text=True)
    why = asked.stderr.partition("\n")[0]
    need(asked.returncode == 0, f"{where}: outboxd refuses `{' '.join(words)}`: {why}")


def pinned(where, image):
    name = image.rsplit("/", 1)[-1]
    need("@sha256:" in image or ":" in name and not name.endswith(":latest"), f"{where}: image {image} is not pinned")


def is_outboxd(image):
    return re.split("[:@]", image.rsplit("/", 1)[-1])[0] == "outboxd"


def docker(path):
    text = path.read_text().replace("\\\n", " ")
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.M)
    for image, _ in stages:
        if image != "scratch" and image not in {name for _, name in stages}:
            pinned("Dockerfile", image)
    last = text[text.rindex("\nFROM ") :]
    need(last.startswith("\nFROM scratch"), "Dockerfile: the last stage is not scratch, so it may contain a shell")
    need(re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.M), "Dockerfile: the user of the last stage is not a number, or is root")
    ignored = (path.parent / "Dockerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M):
        for source in line.split()[:-1]:
            need((ROOT / source).exists(), f"Dockerfile: copies {source}, which does not exist")
            need(f"!{source}" in ignored, f"Dockerfile.dockerignore: excludes {source}, which the Dockerfile copies")
    for command in re.findall(r'CMD (\[.*\])$', last, re.M):  # HEALTHCHECK's, too
        words = json.loads(command)
        verb("Dockerfile", *(words[1:] if words[0].startswith("/") else words))


def compose(path):
    project = yaml.safe_load(path.read_text())
    for name, service in project["services"].items():
        pinned(name, service["image"])
        for other in service.get("depends_on", []):
            need(other in project["services"], f"{name}: depends on {other}, which is not a service")
        for volume in service.get("volumes", []):
            need(volume.split(":")[0] in project["volumes"], f"{name}: there is no volume {volume}")
        if not re.match("mongo|nats", service["image"]):
            need(service.get("read_only"), f"{name}: its root file system is writable")
            need(service.get("cap_drop") == ["ALL"], f"{name}: keeps capabilities")
            need("no-new-privileges:true" in service.get("security_opt", []), f"{name}: may gain privileges")
        if is_outboxd(service["image"]):
            verb(name, *service.get("command", ["run"]))
            for variable in service["environment"]:
                setting(name, variable)
            if "command" not in service:
                need(seconds(service["stop_grace_period"]) > GRACE, f"{name}: is killed before shutdown.grace ends")


def locked_down(where, pod, containers):
    security = pod.get("securityContext", {})
    need(security.get("runAsNonRoot"), f"{where}: may run as root")
    need(security.get("seccompProfile", {}).get("type") == "RuntimeDefault", f"{where}: has no seccomp profile")
    need(pod.get("automountServiceAccountToken") is False, f"{where}: has a token for the Kubernetes API")
    for container in containers:
        name, own = f"{where} {container['name']}", container.get("securityContext", {})
        pinned(name, container["image"])
        need(own.get("allowPrivilegeEscalation") is False, f"{name}: may gain privileges")
        need(own.get("capabilities", {}).get("drop") == ["ALL"], f"{name}: keeps capabilities")
        if is_outboxd(container["image"]):
            need(own.get("readOnlyRootFilesystem"), f"{name}: its root file system is writable")
            resources = container.get("resources", {})
            need("memory" in resources.get("limits", {}), f"{name}: has no memory limit")
            need({"cpu", "memory"} <= set(resources.get("requests", {})), f"{name}: requests no cpu or memory")


def environment(where, container, maps):
    """The plain-text environment of a container that runs outboxd."""
    plain = {}
    for source in container.get("envFrom", []):
        name = source.get("configMapRef", {}).get("name")
        need(name in maps, f"{where}: there is no ConfigMap {name}")
        plain |= maps.get(name, {})
    for entry in container.get("env", []):
        source = entry.get("valueFrom", {})
        need("secretKeyRef" not in source, f"{where}: the secret {entry['name']} is in the environment; mount it")
        if entry["name"] == "NATS_CLIENT_ID":
            field = source.get("fieldRef", {}).get("fieldPath")
            need(field == "metadata.name", f"{where}: NATS_CLIENT_ID is not the name of the pod")
        plain[entry["name"]] = entry.get("value", "")
    need("NATS_CLIENT_ID" in plain, f"{where}: NATS_CLIENT_ID is not set")
    for name in plain:
        setting(where, name)
        secret = re.search(r"(MONGO_URI|MONGODB_URI|__URI|NKEY|PASSWORD|TOKEN|WEBHOOK)$", name)
        need(not secret, f"{where}: the secret {name} is in the environment; mount it")
    mounts = [mount["mountPath"] + "/" for mount in container.get("volumeMounts", [])]
    for name, value in plain.items():
        if value.startswith("/"):
            need(any(value.startswith(mount) for mount in mounts), f"{where}: {name} is {value}, which no volume contains")
    listen = plain.get("OUTBOXD_ADMIN__LISTEN", "127.0.0.1")
    token = "OUTBOXD_ADMIN__TOKEN_FILE" in plain
    need(listen.startswith("127.") or token, f"{where}: the admin endpoint has no token")
    return plain


def relay(where, pod, container, plain):
    need("livenessProbe" in container, f"{where}: has no liveness probe")
    # A fleet's daemon has a pod to itself, and a file with a table for each outbox.
    is_fleet = "OUTBOXD_CONFIG" in plain and pod["containers"] == [container]
    if not is_fleet:
        sidecar = container in pod.get("initContainers", []) and container.get("restartPolicy") == "Always"
        need(sidecar, f"{where}: is not a native sidecar")
        need("readinessProbe" not in container, f"{where}: its readiness probe makes the service unready when NATS is away")
    grace = seconds(plain.get("OUTBOXD_SHUTDOWN__GRACE", f"{GRACE}s"))
    need(pod.get("terminationGracePeriodSeconds", 30) > grace, f"{where}: is killed before shutdown.grace ({grace} s) ends")


def manifests(path):
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    maps = {of["metadata"]["name"]: of["data"] for of in documents if of["kind"] == "ConfigMap"}
    budgets = [of["spec"]["selector"]["matchLabels"] for of in documents if of["kind"] == "PodDisruptionBudget"]
    args = []
    for document in documents:
        if document["kind"] not in ("Deployment", "Job", "StatefulSet"):
            continue
        where, template = f"{document['kind']} {document['metadata']['name']}", document["spec"]["template"]
        pod = template["spec"]
        containers = pod.get("initContainers", []) + pod["containers"]
        locked_down(where, pod, containers)
        order = [of["args"][0] for of in pod.get("initContainers", []) if is_outboxd(of["image"])]
        need(order in ([], ["config"], ["run"], ["check", "run"]), f"{where}: its init containers run {order}; check must come before run")
        for container in (container for container in containers if is_outboxd(container["image"])):
            name = f"{where} {container['name']}"
            plain = environment(name, container, maps)
            args.append(container["args"][0])
            verb(name, *container["args"])
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                command = container.get(probe, {}).get("exec", {}).get("command")
                if command:
                    verb(f"{name} {probe}", *command[1:])
            if args[-1] == "run":
                relay(name, pod, container, plain)
                labels = template["metadata"]["labels"].items()
                need(any(of.items() <= labels for of in budgets), f"{name}: has no PodDisruptionBudget")
    # A fleet starts with what is in order; its file alone is checked before.
    for wanted in ("run", "config" if "config" in args else "check", "migrate"):
        need(wanted in args, f"no container runs `outboxd {wanted}`")


def systemd(path):
    text = path.read_text()
    for name in re.findall(r"^#?Environment=(\w+)=", text, re.M):
        setting("outboxd.service", name)
    for words in re.findall(r"^ExecStart=(?:\S+/)?outboxd (.+)$", text, re.M):
        verb("outboxd.service", *words.split())
    loaded = re.findall(r"^#?LoadCredential=([^:]+):", text, re.M)
    for name in re.findall(r"=%d/(\S+)$", text, re.M):
        need(name in loaded, f"outboxd.service: does not load the credential {name}")
    codes = re.search(r"^RestartPreventExitStatus=(.*)$", text, re.M)
    need(codes and {"64", "78"} <= set(codes[1].split()), "outboxd.service: restarts after a configuration mistake")
    stop = re.search(r"^TimeoutStopSec=(\S+)$", text, re.M)
    need(stop and seconds(stop[1]) > GRACE, "outboxd.service: is killed before shutdown.grace ends")


part, path = sys.argv[2], pathlib.Path(sys.argv[3])
{"docker": docker, "compose": compose, "kustomize": manifests, "chart": manifests, "systemd": systemd}[part](path)
for mistake in dict.fromkeys(mistakes):
    print(mistake)
sys.exit(1 if mistakes else 0)

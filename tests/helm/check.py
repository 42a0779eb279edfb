"""What tests/helm/run asserts on a rendered chart. Prints a line for every assertion, `ok …` or `FAILED …`.

    check.py rendered CASE FILE          FILE: what the values of CASE render to, as a JSON list
    check.py documented CHART FILE       FILE: the chart's values as JSON; every one is in its README and in its schema
    check.py configuration BINARY DIR FILE...   what the pods mount at /etc/entrepot, through `entrepot check`
    check.py alive BINARY DIR FILE       the server with that configuration: its probes, an edit of the ConfigMap, SIGTERM
"""

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

CONFIGURATION = "/etc/entrepot"

# --- telling ------------------------------------------------------------------------------------------------------------------------

failures = 0


def report(case, what, problem=None):
    global failures
    if problem is None:
        print(f"ok      {case}: {what}")
    else:
        failures += 1
        print(f"FAILED  {case}: {what}: {problem}")


class Case:
    """Assertions about one case; each is told and none stops the next."""

    def __init__(self, name):
        self.name = name

    def true(self, what, condition, detail="no"):
        report(self.name, what, None if condition else detail)

    def same(self, what, found, expected):
        report(self.name, what, None if found == expected else f"{found!r} instead of {expected!r}")


class Rendered:
    """The objects of a rendered chart, and what is asked of them often."""

    def __init__(self, file):
        self.objects = json.loads(Path(file).read_text())
        self.set = self.one("StatefulSet")
        self.pod = self.set["spec"]["template"]["spec"]
        [self.container] = self.pod["containers"]
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.service = {port["name"]: port for port in self.one("Service")["spec"]["ports"]}
        self.volumes = {volume["name"]: volume for volume in self.pod["volumes"]}
        self.mounts = {mount["mountPath"]: mount for mount in self.container["volumeMounts"]}

    def all(self, kind):
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind):
        found = self.all(kind)
        if len(found) != 1:
            sys.exit(f"{len(found)} objects of kind {kind}")
        return found[0]

    def probes(self):
        return {name: self.container[f"{name}Probe"]["httpGet"] for name in ["startup", "liveness", "readiness"]}

    def files(self):
        """What is mounted at /etc/entrepot: path → content. What a Secret holds is made up."""
        files = {}
        for source in self.volumes[self.mounts[CONFIGURATION]["name"]]["projected"]["sources"]:
            if "configMap" in source:
                [found] = [one for one in self.all("ConfigMap") if one["metadata"]["name"] == source["configMap"]["name"]]
                files.update(found["data"])
            else:
                held = secret(source["secret"]["name"])
                items = source["secret"].get("items") or [{"key": key, "path": key} for key in held]
                files.update({item["path"]: held[item["key"]] for item in items})
        return files

    def environment(self):
        """What the container's environment is, the values of Secrets made up."""
        environment = {}
        for source in self.container.get("envFrom", []):
            environment.update(secret(source["secretRef"]["name"]))
        for variable in self.container.get("env", []):
            if "value" in variable:
                environment[variable["name"]] = variable["value"]
            elif "secretKeyRef" in variable["valueFrom"]:
                environment[variable["name"]] = "made up"
        return environment


def secret(name):
    """The Secrets that the values of the cases name."""
    if name == "entrepot-tls":
        return certificate()
    return {"entrepot-environment": {"DOCKERHUB_TOKEN": "made up"}, "entrepot-files": {"quay-password": "made up\n"}}[name]


def certificate(made={}):
    if not made:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=registry.example.com", "-addext", "subjectAltName=DNS:registry.example.com", "-keyout", "-"]
        text = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
        key, certificate = re.findall(r"-----BEGIN [^-]+-----.+?-----END [^-]+-----\n", text, re.DOTALL)
        made.update({"tls.crt": certificate, "tls.key": key})
    return made


# --- what holds for every case ------------------------------------------------------------------------------------------------------


def rendered(name, file):
    found = Rendered(file)
    case = Case(name)
    invariants(case, found)
    CASES[name](case, found)


def invariants(case, found):
    pod, container = found.pod, found.container
    case.true("one pod at most", found.set["spec"]["replicas"] <= 1)
    case.same("the pod is selected by its labels", {
        "set": contains(found.set["spec"]["template"]["metadata"]["labels"], found.set["spec"]["selector"]["matchLabels"]),
        "service": contains(found.set["spec"]["template"]["metadata"]["labels"], found.one("Service")["spec"]["selector"]),
    }, {"set": True, "service": True})

    case.same("not root, and fit for the restricted standard", {
        "pod": pick(pod["securityContext"], "runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "seccompProfile"),
        "container": container["securityContext"],
    }, {
        "pod": {
            "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "container": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
    })
    case.same("Kubernetes lends it neither token nor variables", pick(pod, "automountServiceAccountToken", "enableServiceLinks"),
              {"automountServiceAccountToken": False, "enableServiceLinks": False})

    probes = found.probes()
    case.same("probes ask for the right paths", {name: probe["path"] for name, probe in probes.items()},
              {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"})
    case.true("probes ask a port that is there", all(probe["port"] in found.ports for probe in probes.values()), probes)
    case.same("every port of the container is one of the Service", {port["targetPort"] for port in found.service.values()},
              set(found.ports))
    case.true("names of ports are as long as they may be", all(len(name) <= 15 for name in found.ports), found.ports)

    case.same("every mount has its volume, and the other way round", sorted(mount["name"] for mount in found.mounts.values()),
              sorted(found.volumes))
    case.same("the command line names the mounted file", container["args"], ["serve", "-c", f"{CONFIGURATION}/repositories.yml"])
    mount = found.mounts[CONFIGURATION]
    case.true("the configuration is mounted as a folder, read only", mount.get("readOnly") and "subPath" not in mount, mount)
    files = found.files()
    case.true("there is a repositories.yml", "repositories:" in files.get("repositories.yml", ""), list(files))
    path = re.search(r"^storage:\n  path: (\S+)$", files["repositories.yml"], re.MULTILINE)
    case.true("the volume is where the store is", path and found.mounts.get(path[1], {}).get("name") == "data", found.mounts)

    for account in found.all("ServiceAccount"):
        case.same("the account is the pod's", account["metadata"]["name"], pod["serviceAccountName"])
    claim = found.volumes["data"].get("persistentVolumeClaim", {}).get("claimName")
    for one in found.all("PersistentVolumeClaim"):
        case.same("the claim is the pod's", one["metadata"]["name"], claim)


def contains(all_labels, some):
    return all(all_labels.get(key) == value for key, value in some.items())


def pick(mapping, *keys):
    return {key: mapping.get(key) for key in keys}


# --- what holds for one -------------------------------------------------------------------------------------------------------------


def defaults(case, found):
    case.same("the ports", (found.ports, found.service["http"]["port"]), ({"http": 5000}, 5000))
    case.same("the probes' scheme", {probe["scheme"] for probe in found.probes().values()}, {"HTTP"})
    case.same("the drain, and ten seconds", found.pod["terminationGracePeriodSeconds"], 70)
    case.same("the kinds", sorted(one["kind"] for one in found.objects),
              ["ConfigMap", "PersistentVolumeClaim", "Service", "ServiceAccount", "StatefulSet"])
    claim = found.one("PersistentVolumeClaim")
    case.same("the claim outlives the release", claim["metadata"]["annotations"], {"helm.sh/resource-policy": "keep"})
    case.same("the claim", claim["spec"], {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "50Gi"}}})


def existing_claim(case, found):
    case.same("no claim is made", found.all("PersistentVolumeClaim"), [])
    case.same("that claim", found.volumes["data"]["persistentVolumeClaim"], {"claimName": "images"})
    case.same("mounted there", found.mounts["/var/lib/entrepot"]["name"], "data")


def no_persistence(case, found):
    case.same("no claim is made", found.all("PersistentVolumeClaim"), [])
    case.same("an empty folder", found.volumes["data"], {"name": "data", "emptyDir": {}})


def ingress(case, found):
    spec = found.one("Ingress")["spec"]
    case.same("its hosts", [rule["host"] for rule in spec["rules"]], ["registry.example.com", "docker.example.com"])
    backends = [path["backend"]["service"] for rule in spec["rules"] for path in rule["http"]["paths"]]
    case.true("its backends are the Service's", all(
        backend["name"] == found.one("Service")["metadata"]["name"] and backend["port"]["name"] in found.service for backend in backends
    ), backends)
    case.same("its class and TLS", (spec["ingressClassName"], spec["tls"][0]["secretName"]), ("nginx", "registry-tls"))
    case.same("the Service's port", found.service["http"]["port"], 80)
    case.true("a repository set to null is gone", "docker-hub" not in found.files()["repositories.yml"])


def tls(case, found):
    case.same("the ports", (found.ports, found.service["https"]["port"]), ({"https": 5443}, 443))
    case.same("the probes' scheme", {probe["scheme"] for probe in found.probes().values()}, {"HTTPS"})
    case.same("the files", sorted(found.files()), ["repositories.yml", "tls/tls.crt", "tls/tls.key"])
    [endpoint] = found.one("ServiceMonitor")["spec"]["endpoints"]
    case.same("scraped by TLS", pick(endpoint, "port", "scheme", "path"), {"port": "https", "scheme": "https", "path": "/metrics"})


def metrics(case, found):
    case.same("the ports", found.ports, {"http": 5000, "metrics": 9090})
    case.same("probes ask there, as `entrepot healthcheck` does", {probe["port"] for probe in found.probes().values()}, {"metrics"})
    monitor = found.one("ServiceMonitor")
    [endpoint] = monitor["spec"]["endpoints"]
    case.same("scraped there", pick(endpoint, "port", "interval"), {"port": "metrics", "interval": "15s"})
    case.true("the monitor selects the Service",
              contains(found.one("Service")["metadata"]["labels"], monitor["spec"]["selector"]["matchLabels"]))
    case.same("the monitor's label", monitor["metadata"]["labels"].get("release"), "prometheus")
    policy = found.one("NetworkPolicy")["spec"]
    case.same("who may connect where", [([port["port"] for port in rule["ports"]], list(rule["from"][0])) for rule in policy["ingress"]],
              [([5000], ["ipBlock"]), ([9090], ["namespaceSelector"])])
    case.same("what it connects to stays open", policy["policyTypes"], ["Ingress"])


def listeners(case, found):
    case.same("the ports, without loopback's", found.ports, {"http": 5000, "listen-5001": 5001})
    case.same("the Service's", {name: port["port"] for name, port in found.service.items()}, {"http": 5000, "listen-5001": 5001})
    case.same("the node's port", found.service["http"].get("nodePort"), 30500)
    case.same("an hour and a half, and ten seconds", found.pod["terminationGracePeriodSeconds"], 5410)
    case.true("a large number stays one", "uploads: 1000000\n" in found.files()["repositories.yml"])


def credentials(case, found):
    case.same("the environment", sorted(found.environment()), ["DOCKERHUB_TOKEN", "QUAY_USER"])
    case.same("the files", sorted(found.files()), ["quay-password", "repositories.yml"])
    case.true("no secret is in the ConfigMap", "made up" not in found.files()["repositories.yml"])


def everything(case, found):
    case.same("stopped", found.set["spec"]["replicas"], 0)
    case.same("the image by its digest", found.container["image"],
              "registry.example.com/entrepot@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    case.same("names", sorted({one["metadata"]["name"] for one in found.objects}), ["registry", "registry-data", "somebody"])
    claim = found.one("PersistentVolumeClaim")
    case.same("no storage class, and not kept", (claim["spec"]["storageClassName"], claim["metadata"]["annotations"]),
              ("", {"example.com/backup": "nightly"}))
    case.same("the grace period as told", found.pod["terminationGracePeriodSeconds"], 5)
    case.true("where it runs", {"nodeSelector", "tolerations", "affinity", "priorityClassName", "imagePullSecrets"} <= set(found.pod))
    case.true("what it is called", found.set["spec"]["template"]["metadata"]["labels"].get("team") == "platform")
    case.true("the further mount", "/etc/ssl/certs" in found.mounts)


CASES = {
    "defaults": defaults,
    "existing-claim": existing_claim,
    "no-persistence": no_persistence,
    "ingress": ingress,
    "tls": tls,
    "metrics": metrics,
    "listeners": listeners,
    "credentials": credentials,
    "everything": everything,
}

# --- values, README and schema say the same -----------------------------------------------------------------------------------------

# Maps whose keys are the user's own, or Kubernetes': the chart names only the whole.
OPAQUE = {"config", "podSecurityContext", "securityContext", "resources", "affinity", "nodeSelector", "podAnnotations", "podLabels"}


def documented(chart, values):
    values = json.loads(Path(values).read_text())
    readme = set(re.findall(r"^\| `([^`]+)` \|", (Path(chart) / "README.md").read_text(), re.MULTILINE))
    schema = json.loads((Path(chart) / "values.schema.json").read_text())
    case = Case("values")
    case.same("README.md names exactly these", sorted(readme), sorted(leaves(values)))
    known = {name for name in schema["properties"] if name not in ("global", "enabled")}
    case.same("the schema knows exactly these", sorted(known), sorted(values))
    for name, value in values.items():
        if isinstance(value, dict) and name not in OPAQUE:
            case.same(f"the schema knows exactly the keys of {name}", sorted(schema["properties"][name]["properties"]), sorted(value))


def leaves(values, above=""):
    for name, value in values.items():
        if isinstance(value, dict) and value and above + name not in OPAQUE and above != "probes.":
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name


# --- the server reads it ------------------------------------------------------------------------------------------------------------


def lay(files, folder, edition):
    """As the kubelet lays a volume: files behind a link to a folder, which an edit replaces by another."""
    hidden = folder / f"..{edition}"
    for path, content in files.items():
        file = hidden / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    new = folder / "..data_tmp"
    new.symlink_to(hidden.name)
    new.rename(folder / "..data")
    for name in {Path(path).parts[0] for path in files}:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def configuration(binary, folder, *files):
    for file in files:
        found = Rendered(file)
        name = Path(file).stem
        place = Path(folder) / name
        lay(found.files(), place, "first")
        code, output = entrepot_check(binary, place, found.environment())
        case = Case(name)
        case.true("`entrepot check` finds nothing wrong, and no warning", code == 0 and "warning" not in output, f"exit {code}\n{output}")
    # Else all of this would pass with a check that reads nothing.
    spoiled = Path(folder) / "spoiled"
    lay({"repositories.yml": found.files()["repositories.yml"] + "surplus: 1\n"}, spoiled, "first")
    code, output = entrepot_check(binary, spoiled, found.environment())
    Case("spoiled").true("`entrepot check` sees an unknown key", code == 1 and "surplus" in output, f"exit {code}\n{output}")


def entrepot_check(binary, folder, environment):
    done = subprocess.run([binary, "check", "-c", folder / "repositories.yml"], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=60)
    return done.returncode, done.stdout


def alive(binary, folder, file):
    """Runs it on free ports of loopback and with a store in `folder`; the rest is as rendered."""
    found = Rendered(file)
    case = Case(Path(file).stem)
    folder = Path(folder) / f"{case.name}-alive"
    ports = {port: free_port() for port in found.ports.values()}

    def files(addition=""):
        text = found.files()["repositories.yml"].replace("\n  path: /data", f"\n  path: {folder}/store")
        for port, free in ports.items():
            text = text.replace(f"0.0.0.0:{port}", f"127.0.0.1:{free}")
        return found.files() | {"repositories.yml": text.replace("\nrepositories:\n", f"\nrepositories:\n{addition}")}

    lay(files(), folder / "etc", "first")
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([binary, *found.container["args"][:-1], folder / "etc/repositories.yml"], env=found.environment(),
                                   stdout=log, stderr=log)
    try:
        def ask(probe, path=None):
            scheme = probe.get("scheme", "HTTP").lower()
            return fetch(f"{scheme}://127.0.0.1:{ports[found.ports[probe['port']]]}{path or probe['path']}")

        probes = found.probes()
        started = until(30, lambda: process.poll() is not None or ask(probes["startup"])[0] == 200)
        case.true("the startup probe succeeds", started and process.poll() is None, (folder / "log").read_text())
        case.same("the others do", {name: ask(probe)[0] for name, probe in probes.items()},
                  {"startup": 200, "liveness": 200, "readiness": 200})
        reloads = 'entrepot_config_reloads_total{result="accepted"} 1'
        lay(files("  added:\n    type: local\n"), folder / "etc", "second")
        taken = until(20, lambda: reloads in ask(probes["liveness"], "/metrics")[1])
        case.true("an edit of the ConfigMap is taken without a restart", taken and process.poll() is None, (folder / "log").read_text())
        process.send_signal(signal.SIGTERM)
        case.same("SIGTERM ends it well", process.wait(timeout=found.pod["terminationGracePeriodSeconds"]), 0)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(folder / "store", ignore_errors=True)


def fetch(url):
    # The kubelet does not verify certificates either.
    try:
        with urllib.request.urlopen(url, timeout=5, context=ssl._create_unverified_context()) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, str(error)


def until(seconds, condition):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def free_port():
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


if __name__ == "__main__":
    {"rendered": rendered, "documented": documented, "configuration": configuration, "alive": alive}[sys.argv[1]](*sys.argv[2:])
    sys.exit(1 if failures else 0)

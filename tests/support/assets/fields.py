#!/usr/bin/env python3
"""Writes fields.txt: which fields the built-in kinds have, read from Kubernetes' Go types.

    fields.py API_REPO.git APIMACHINERY_REPO.git >fields.txt

Both are git directories of the repositories kubernetes/api and kubernetes/apimachinery. For a release that is
newer than the table: run it, and see what `git diff` says.
"""

import re
import subprocess
import sys

API, MACHINERY = sys.argv[1:3]

# What is asked of a server: a package of kubernetes/api, and its kinds that are no lists.
ROOTS = {
    "core/v1": "Namespace Node Pod Service ServiceAccount ConfigMap Secret Endpoints Event PersistentVolume"
    " PersistentVolumeClaim ResourceQuota LimitRange ReplicationController PodTemplate Binding",
    "apps/v1": "Deployment ReplicaSet StatefulSet DaemonSet ControllerRevision",
    "batch/v1": "Job CronJob",
    "autoscaling/v1": "Scale",
    "autoscaling/v2": "HorizontalPodAutoscaler",
    "policy/v1": "PodDisruptionBudget Eviction",
    "networking/v1": "Ingress IngressClass NetworkPolicy",
    "discovery/v1": "EndpointSlice",
    "coordination/v1": "Lease",
    "events/v1": "Event",
    "rbac/v1": "Role RoleBinding ClusterRole ClusterRoleBinding",
    "admissionregistration/v1": "MutatingWebhookConfiguration ValidatingWebhookConfiguration",
    "scheduling/v1": "PriorityClass",
    "storage/v1": "StorageClass CSIDriver",
    "certificates/v1": "CertificateSigningRequest",
    "authentication/v1": "TokenReview SelfSubjectReview TokenRequest",
    "authorization/v1": "SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview LocalSubjectAccessReview",
    "meta/v1": "DeleteOptions",
}
# Types whose JSON is not that of their fields; the reader knows them by name.
SPECIAL = {
    "meta/v1.Time": "Time",
    "meta/v1.MicroTime": "MicroTime",
    "meta/v1.Duration": "Duration",
    "meta/v1.FieldsV1": "FieldsV1",
    "resource.Quantity": "Quantity",
    "intstr.IntOrString": "IntOrString",
    "runtime.RawExtension": "RawExtension",
}
PLAIN = {"string": "string", "bool": "bool", "int32": "int32", "int64": "int64", "int": "int64", "float64": "double"}
IMPORTS = {"metav1": "meta/v1", "v1": "core/v1", "apiv1": "core/v1", "corev1": "core/v1", "rbacv1": "rbac/v1"}


def read(repo, package):
    names = subprocess.run(
        ["git", "-C", repo, "ls-tree", "--name-only", "HEAD", package + "/"], capture_output=True, text=True, check=True
    ).stdout.split()
    for name in names:
        if name.endswith(".go") and not name.endswith("_test.go") and "generated" not in name:
            yield subprocess.run(
                ["git", "-C", repo, "show", f"HEAD:{name}"], capture_output=True, text=True, check=True
            ).stdout


structs, aliases, atomic = {}, {}, set()


def load(package):
    repo, path = (MACHINERY, "pkg/apis/meta/v1") if package == "meta/v1" else (API, package)
    for text in read(repo, path):
        for name, body in re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.S | re.M):
            structs[f"{package}.{name}"] = body
        for notes, name in re.findall(r"^((?://.*\n)+)type (\w+) struct \{", text, re.M):
            if re.search(r"\+structType=atomic", notes):
                atomic.add(f"{package}.{name}")
        for name, of in re.findall(r"^type (\w+) (?!struct|interface|func)(\S.*)$", text, re.M):
            aliases[f"{package}.{name}"] = of.split("//")[0].strip()
        for block in re.findall(r"^type \(\n(.*?)^\)", text, re.S | re.M):
            for name, of in re.findall(r"^\t(\w+) (\S+)$", block, re.M):
                aliases[f"{package}.{name}"] = of


def kind_of(go, package):
    """A Go type in our notation: `[T]`, `{T}`, a plain word, or PACKAGE.TYPE."""
    go = go.lstrip("*")
    if go == "[]byte":
        return "bytes"
    if go.startswith("[]"):
        return f"[{kind_of(go[2:], package)}]"
    if go.startswith("map["):
        return "{" + kind_of(go[go.index("]") + 1 :], package) + "}"
    if go in PLAIN:
        return PLAIN[go]
    if go == "types.UID" or go == "types.NodeName":
        return "string"
    if "." in go:
        prefix, name = go.split(".")
        full = f"{IMPORTS.get(prefix, prefix)}.{name}"
    else:
        full = f"{package}.{go}"
    if full in SPECIAL:
        return SPECIAL[full]
    if full in aliases:
        return kind_of(aliases[full], full.rsplit(".", 1)[0])
    if full in structs:
        return full
    raise SystemExit(f"{full} is not known")


FIELD = re.compile(r"^\t(?:(\w+)\s+)?([\w.*\[\]]+)\s+`(.*?)`", re.M)


def fields(full):
    package = full.rsplit(".", 1)[0]
    notes = []
    for line in structs[full].split("\n"):
        if line.strip().startswith("//"):
            notes.append(line.strip()[2:].strip())
            continue
        found = FIELD.match(line)
        if not found:
            if not line.strip():
                continue
            notes = []
            continue
        _, go, tags = found.groups()
        json = re.search(r'json:"([^"]*)"', tags)
        proto = re.search(r'protobuf:"\w+,(\d+),', tags)
        comment, notes = notes, []
        if not json or not proto:
            continue
        name = json.group(1).split(",")[0] or "*"
        # Of alpha packages nothing is served.
        if re.search(r"v\dalpha\d\.", go):
            continue
        if ",inline" in json.group(1):
            name = "*"
        if name == "-":
            continue
        row = f" {name} {proto.group(1)} {kind_of(go, package)}"
        if go.startswith("*"):
            row += " ?"
        listed = [n.split("=")[1] for n in comment if n.startswith("+listType=")]
        keys = [n.split("=")[1] for n in comment if n.startswith("+listMapKey=")]
        if listed == ["map"]:
            row += " map:" + ",".join(keys)
        elif listed == ["set"]:
            row += " set"
        if row.split()[2] in atomic or any(n == "+structType=atomic" or n == "+mapType=atomic" for n in comment):
            row += " atomic"
        key = re.search(r'patchMergeKey:"(\w+)"', tags)
        if key:
            row += f" merge:{key.group(1)}"
        elif 'patchStrategy:"merge"' in tags:
            row += " merge"
        yield row


for package in list(ROOTS) + ["meta/v1", "core/v1"]:
    load(package)
todo = [f"{package}.{name}" for package, names in ROOTS.items() for name in names.split()]
done, out = set(), []
while todo:
    full = todo.pop(0)
    if full in done:
        continue
    done.add(full)
    out.append(full)
    for row in fields(full):
        out.append(row)
        inner = row.split()[2].strip("[]{}")
        if "." in inner and inner not in done:
            todo.append(inner)
print("# Written by fields.py from Kubernetes' types. A message, and its fields: name (`*`: its fields stand in the")
print("# message itself), number in protobuf, type ([T] a list, {T} a map), how lists are merged, `?` a pointer in Go: zero is not nothing.")
print("\n".join(out))

"""Validates every document of standard input against the schemas of Kubernetes 1.30 to 1.37, strictly.

Prints how many validations passed; the first that does not ends it.
"""

import sys

import kubernetes_validate
import yaml

VERSIONS = [f"1.{minor}" for minor in range(30, 38)]
passed = 0
for document in yaml.safe_load_all(sys.stdin):
    if document is None:
        continue
    items = document["items"] if document.get("kind") == "List" else [document]
    for item in items:
        if "." in item["apiVersion"].split("/")[0]:
            # The schema of its own group is not here; its pod template is a pod's.
            template = item["spec"].get("template")
            if template is None:
                continue
            item = {"apiVersion": "v1", "kind": "Pod", **template}
        for version in VERSIONS:
            kubernetes_validate.validate(item, version, strict=True)
            passed += 1
print(passed)

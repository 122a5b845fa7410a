"""Lints and renders the chart for several values, validates what comes out, and prints all objects as one JSON list per case.

Custom resources, which kubernetes-validate passes over, are checked against SHAPES below. Usage: chart.py CHART KUBERNETES_VERSION
"""

import json
import sys

import helm_python
import kubernetes_validate
import yaml

# Values of each case; the chart must be refused where the value is a text, which is part of the refusal.
SECURED = {"security": {"existingSecret": "evenkeel"}}
EVERYTHING = {
    **SECURED,
    "image": {"repository": "registry.example.net/evenkeel", "tag": "1.2.3", "pullSecrets": ["pull"]},
    "broker": {
        "replicas": 5,
        "storage": {"size": "100Gi", "className": "fast"},
        "settings": {"raft": {"lease": "1s", "priority_election": True}, "limits": {"in_flight_writes_max": 1000}},
        "nodeSelector": {"disk": "nvme"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "podAnnotations": {"a": "b"},
        "drainSeconds": 300,
    },
    "gateway": {
        "replicas": 3,
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "settings": {"limits": {"batch_bytes_max": 4194304}},
        "podAnnotations": {"a": "b"},
    },
    "networkPolicy": {
        "clients": [{"namespaceSelector": {"matchLabels": {"team": "app"}}}],
        "monitoring": [{"namespaceSelector": {"matchLabels": {"team": "sre"}}}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "runbooks": "https://wiki.example.com/evenkeel/",
    },
    "grafanaDashboard": {"enabled": True},
}
CASES = {
    "secured": SECURED,
    "insecure": {"security": {"insecure": True}},
    "everything": EVERYTHING,
    "open": {**SECURED, "networkPolicy": {"enabled": False}},
}
REFUSED = {
    "neither secured nor insecure": {},
    "both": {"security": {"existingSecret": "a", "insecure": True}},
    "misspelt": {**SECURED, "brokers": {"replicas": 3}},
    "misspelt below": {**SECURED, "broker": {"replica": 3}},
    "no brokers": {**SECURED, "broker": {"replicas": 0}},
    "too many replicas": {**SECURED, "broker": {"replicationFactor": 4}},
    "a size that is none": {**SECURED, "broker": {"storage": {"size": "big"}}},
    "runbooks nowhere": {**SECURED, "prometheusRule": {"runbooks": "docs/runbooks"}},
    "a drain without bound": {**SECURED, "broker": {"drainSeconds": 100000}},
}

# For each custom resource: fields by path, with their types; "*" is every element of a list, and "!" marks what must be there.
SHAPES = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {
        "spec": {
            "selector!": {"matchLabels!": dict},
            "endpoints!": [
                {
                    "port!": str,
                    "path": str,
                    "interval": str,
                    "scheme": str,
                    "tlsConfig": {"ca": {"secret": {"name!": str, "key!": str}}, "serverName": str},
                    "authorization": {"credentials": {"name!": str, "key!": str}},
                    "relabelings": [{"targetLabel": str, "replacement": str}],
                }
            ],
        }
    },
    ("monitoring.coreos.com/v1", "PrometheusRule"): {
        "spec": {
            "groups!": [
                {
                    "name!": str,
                    "interval": str,
                    "rules!": [
                        {
                            "alert": str,
                            "record": str,
                            "expr!": str,
                            "for": str,
                            "labels": dict,
                            "annotations": dict,
                            "keep_firing_for": str,
                        }
                    ],
                }
            ]
        }
    },
}


def check_shape(value, shape, path):
    if isinstance(shape, type):
        assert isinstance(value, shape), f"{path} = {value!r}: is no {shape.__name__}"
    elif isinstance(shape, list):
        assert isinstance(value, list) and value, f"{path} = {value!r}: is no list with something in it"
        for index, element in enumerate(value):
            check_shape(element, shape[0], f"{path}[{index}]")
    else:
        assert isinstance(value, dict), f"{path} = {value!r}: is no object"
        known = {key.rstrip("!"): inner for key, inner in shape.items()}
        missing = [key for key in shape if key.endswith("!") and key.rstrip("!") not in value]
        assert not missing, f"{path}: lacks {missing}"
        for key, element in value.items():
            assert key in known, f"{path}.{key}: there is no such field"
            check_shape(element, known[key], f"{path}.{key}")


def render(chart, values):
    objects = []
    for path, text in chart.render(values, name="test", namespace="store").items():
        if path.endswith("NOTES.txt"):
            assert "evenkeel" in text, text
            continue
        for document in yaml.safe_load_all(text):
            if document is not None:
                objects.append((path, document))
    return objects


def validate(path, document, version):
    where = f"{path}: {document['kind']} {document['metadata']['name']}"
    shape = SHAPES.get((document["apiVersion"], document["kind"]))
    if shape is not None:
        check_shape(document["spec"], shape["spec"], f"{where}: spec")
        return
    assert "." not in document["apiVersion"] or ".k8s.io/" in document["apiVersion"], f"{where}: has no check"
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except Exception as error:
        raise AssertionError(f"{where}: {error}") from error


def main():
    folder, version = sys.argv[1:]
    for values in CASES.values():
        report = helm_python.lint(folder, values, strict=True, kube_version=f"v{version}.0")
        bad = [message for message in report["messages"] if message["severity"] >= 2]
        assert not bad and not report["errors"], report
    cases = {}
    with helm_python.Chart.load(folder) as chart:
        for name, values in REFUSED.items():
            try:
                chart.validate_schema(values)
                chart.render(values)
            except helm_python.HelmError:
                continue
            raise AssertionError(f"{name}: the chart takes {values}")
        for name, values in CASES.items():
            chart.validate_schema(values)
            objects = render(chart, values)
            for path, document in objects:
                validate(path, document, version)
            cases[name] = [document for _, document in objects]
    json.dump(cases, sys.stdout)


main()

"""JSON schemas for kubeconform, one file for each kind, from Kubernetes' own OpenAPI and from CRDs.

    schemas.py SWAGGER.JSON CRD-DIRECTORY OUT

Strict: a property that the API does not know is an error. A file holds all definitions it refers to.
"""

import json
import pathlib
import sys

import yaml

# An enum of label matchers holds a bare `=`, which YAML 1.1 gives a tag of its own.
yaml.SafeLoader.add_constructor("tag:yaml.org,2002:value", yaml.SafeLoader.construct_yaml_str)
OPEN = {"io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["string", "integer"]}}


def strict(schema):
    """Closes every object that lists its properties."""
    if isinstance(schema, list):
        return [strict(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    out = {}
    for key, value in schema.items():
        if key == "properties":
            out[key] = {name: strict(s) for name, s in value.items()}
        elif key in ("items", "additionalProperties", "allOf", "anyOf", "oneOf", "not"):
            out[key] = strict(value)
        elif key in ("type", "enum", "required", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
                     "const"):
            out[key] = value
        elif key == "$ref":
            out[key] = value
    if "properties" in out and "additionalProperties" not in out and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    return out


def refers_to(schema):
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix("#/definitions/")
        for value in schema.values():
            yield from refers_to(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from refers_to(value)


def write(out, group, version, kind, schema):
    schema["properties"]["apiVersion"] = {"const": f"{group}/{version}" if group else version}
    schema["properties"]["kind"] = {"const": kind}
    schema["required"] = sorted({*schema.get("required", []), "apiVersion", "kind", "metadata"})
    schema["$schema"] = "http://json-schema.org/draft-07/schema#"
    suffix = "-".join([*([group.split(".")[0]] if group else []), version])
    (out / f"{kind.lower()}-{suffix}.json").write_text(json.dumps(schema))


def main():
    swagger, crds, out = (pathlib.Path(a) for a in sys.argv[1:])
    out.mkdir(parents=True)
    raw = json.loads(swagger.read_text())["definitions"]
    definitions = {name: OPEN.get(name) or strict(d) for name, d in raw.items()}
    for name, definition in raw.items():
        for gvk in definition.get("x-kubernetes-group-version-kind", []) if "metadata" in definition.get("properties", {}) else []:
            needed, todo = {}, list(refers_to(definitions[name]))
            while todo:
                if (ref := todo.pop()) not in needed:
                    needed[ref] = definitions[ref]
                    todo += refers_to(definitions[ref])
            own = json.loads(json.dumps(definitions[name]))
            write(out, gvk["group"], gvk["version"], gvk["kind"], {**own, "definitions": needed})
    for file in sorted(crds.glob("*.yaml")):
        spec = yaml.safe_load(file.read_text())["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            write(out, spec["group"], version["name"], spec["names"]["kind"], schema)
    print(f"{len(list(out.glob('*.json')))} schemas", file=sys.stderr)


main()

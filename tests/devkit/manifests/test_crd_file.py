"""What survives in a CRD's file, and what does not."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import yaml

from tests.devkit.manifests.conftest import Write, generated
from tests.devkit.manifests.test_crd import CRD, SPECS, crd, spec_of, specs


def test_what_others_wrote_stays_and_what_was_generated_is_updated(write: Write) -> None:
    options = "# +rolerunner:minimum=1\nsize: {type: int, required: true}\nold: {}\nother: {type: dict, options: {a: {}}}"
    write({SPECS: specs(options, kind="# +rolerunner:shortNames=th")})
    definition = crd()
    definition["metadata"]["labels"] = {"a": "b"}
    definition["metadata"]["annotations"] = {"c": "d"}
    definition["spec"]["conversion"] = {"strategy": "None"}
    definition["spec"]["names"]["categories"] = ["all"]
    (version,) = definition["spec"]["versions"]
    version["additionalPrinterColumns"] = [{"name": "A", "type": "date", "jsonPath": ".metadata.creationTimestamp"}]
    version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["mine"] = {"type": "string"}
    spec = spec_of(definition)
    spec["x-kubernetes-validations"] = [{"rule": "true"}]
    spec["properties"]["size"]["maximum"] = 9
    spec["properties"]["mine"] = {"type": "string"}
    spec["required"].append("mine")
    definition["spec"]["versions"].append({**deepcopy(version), "name": "v0", "storage": False})
    record = CRD.read_text().partition("# Written by")
    CRD.write_text("# A licence.\n" + yaml.safe_dump(definition, sort_keys=False) + record[1] + record[2])
    unchanged = CRD.read_text()
    generated()
    assert CRD.read_text() == unchanged, "nothing has changed, and its author's own style is kept"

    Path(SPECS).write_text(specs("size: {type: int}\nnew_one: {required: true}\nother: {type: dict, options: {b: {}}}"))
    after = crd()
    assert CRD.read_text().startswith("# A licence.\n")
    spec["properties"] = {
        "size": {"type": "integer", "maximum": 9},
        "other": {"type": "object", "properties": {"b": {"type": "string"}}},
        "mine": {"type": "string"},
        "newOne": {"type": "string"},
    }
    spec["required"] = ["newOne", "mine"]
    del definition["spec"]["names"]["shortNames"]
    assert after == definition
    generated()
    assert yaml.safe_load(CRD.read_text()) == after


def test_a_crd_is_found_whatever_its_file_is_called_and_keeps_its_spellings(write: Write) -> None:
    write({SPECS: specs("tls_cert_url: {}")})
    definition = crd()
    spec_of(definition)["properties"] = {"tlsCertURL": {"description": "Mine."}}
    CRD.unlink()
    Path("crds/mine.yml").write_text(yaml.safe_dump(definition))
    assert Path("crds/mine.yml") in generated().texts
    assert spec_of(yaml.safe_load(Path("crds/mine.yml").read_text()))["properties"] == {"tlsCertURL": {"type": "string"}}
    assert not CRD.exists()


def test_lists_stand_as_far_in_as_they_did(write: Write) -> None:
    write({SPECS: specs("size: {type: int}")})
    definition = crd()
    assert "  versions:\n    - name: v1\n" in CRD.read_text()
    CRD.write_text(yaml.safe_dump(definition))
    write({SPECS: specs("size: {type: str}")})
    generated()
    assert "  versions:\n  - name: v1\n" in CRD.read_text()

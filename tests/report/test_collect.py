"""Which records of which files are one codec."""

from dataclasses import replace

from test_report_command import SETS, make

from cmfr.evaluation.records import write_results
from cmfr.report.collect import collect


def test_one_name_with_two_sets_of_weights_is_two_codecs(tmp_path):
    """Whichever sequences each was measured on; with one, files add up to one codec."""
    one, other = ([dataset] for dataset in SETS)

    def written(name, sets, weights):
        records = make("mine", sets={dataset: SETS[dataset] for dataset in sets})
        records = [replace(r, metadata={"weights_id": weights}) for r in records]
        write_results(tmp_path / name, records)
        return tmp_path / name

    first = written("first.json", one, "aa")
    same, later = written("same.json", other, "aa"), written("later.json", other, "bb")
    (codec,) = collect([first, same], anchor="mine")
    assert {dataset for dataset, _ in codec.places} == {*one, *other}
    apart = collect([first, later], anchor="mine (first)")
    assert [codec.name for codec in apart] == ["mine (first)", "mine (later)"]

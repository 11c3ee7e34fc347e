"""No record is stale: what prose and figures quote was measured with the code as it is."""

import pytest

import results as tool


@pytest.mark.parametrize("name", tool.experiments())
def test_record_is_up_to_date(name: str) -> None:
    assert not (reasons := tool.out_of_date(name)), (
        f"results/{name}.json is stale: {'; '.join(reasons)}; run `make results`"
    )

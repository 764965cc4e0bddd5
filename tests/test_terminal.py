"""What people read: the table fits 80 columns, whatever the rows."""

import pytest

from flows import addresses, terminal


def test_the_table_fits_80_columns_and_keeps_every_reason() -> None:
    measured = {"accuracy": 0.9123, "p50_ms": 123.456, "p99_ms": 999.9, "images_per_s": 123456.7}
    rows = [
        {"engine": "torch-fp32", "size_bytes": None, "verdict": "reference", **measured},
        {
            "engine": "onnxruntime-int8",
            "size_bytes": 12_345_678,
            "verdict": "accuracy drop 0.0100 over max_accuracy_drop 0.0050 (n=10000)",
            **measured,
        },
        {
            "engine": "tensorrt_rtx-fp32",
            "size_bytes": 5,
            "not_measured": "no GPU",
            "verdict": "built, not measured here: no GPU",
        },
    ]
    table = terminal.table(rows)
    assert max(len(line) for line in table.splitlines()) <= 80
    assert "max_accuracy_drop 0.0050 (n=10000)" in table and "no GPU" in table


def test_60_columns_are_enough(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    row = {"accuracy": 0.9123, "p50_ms": 123.456, "p99_ms": 999.9, "images_per_s": 123456.7, "size_bytes": 5_000_000}
    rows = [{"engine": "tensorrt_rtx-fp32", "verdict": "built, not run here" * 4, "not_measured": "no GPU"}]
    terminal.say(terminal.table([*rows, {"engine": "onnxruntime-int8", "verdict": "less throughput", **row}]))
    terminal.outcome("build@fashion-tensorrt_rtx", "1234.5 s", "word " * 40)
    terminal.paragraph("a sentence of many words " * 10)
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 60


def test_stage_lines_fit(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.outcome("build@fashion-tensorrt_rtx", "1234.5 s", "word " * 40)
    line = capsys.readouterr().out.rstrip("\n")
    assert len(line) <= 80 and line.startswith("build tensorrt_rtx") and line.endswith("…")


@pytest.mark.parametrize("value", ["http", "0", "70000", "-1"])
def test_a_wrong_port_names_its_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ENGINEWORKS_MLFLOW_PORT", value)
    with pytest.raises(ValueError, match="ENGINEWORKS_MLFLOW_PORT"):
        addresses.port("MLFLOW")


def test_inherited_servers_are_told_from_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", addresses.prefect_api())
    assert addresses.inherited() == {}
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    assert set(addresses.inherited()) == {"PREFECT_API_URL", "MLFLOW_TRACKING_URI"}

"""The laboratory's command on a tiny run: measured once, resumed, drawn."""

import json

import pytest

from experiments import command
from experiments.errors import UserError
from experiments.lab import __main__ as lab
from experiments.lab import figures, measure
from experiments.training import loading, provenance, run
from gumbel import lab as library
from gumbel.lab import Comparison, Row
from tests.experiments import small

pytestmark = pytest.mark.usefixtures("shared_programs")

ESTIMATORS = "st,gumbel_softmax,vimco"


@pytest.fixture(scope="module", name="workdir")
def fixture_workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    settings = small.settings("sbn", layers=(3, 3), num_steps=4, estimator__name="st")
    run.train(settings, workdir)
    return workdir


def compare(workdir, *flags):
    sizes = ["--draws=20", "--reference_draws=40", "--images=4", "--warmup=2"]
    given = [f"--workdir={workdir}", f"--estimators={ESTIMATORS}", "--temperatures=0.5", *sizes]
    return command.launch(lab.main, lab.define_flags, [*given, *flags])


def test_a_run_is_measured_once_and_drawn(workdir, capsys, monkeypatch):
    assert compare(workdir) == 0
    shown, told = capsys.readouterr()
    numbers = json.loads((workdir / "lab" / measure.NUMBERS).read_text())
    assert numbers["reference"] == "enumeration of 64 joint values"
    assert {row["estimator"] for row in numbers["rows"]} == {"st", "gumbel_softmax"}
    assert numbers["skipped"] == {"vimco": "it descends a multi-sample bound"}
    assert "use " in shown.splitlines()[-5]
    measured = [line.split()[1] for line in told.splitlines() if line.startswith("measuring: ")]
    assert measured == ["st", "gumbel_softmax"]  # the true gradient is enumerated
    assert (workdir / "lab" / measure.PICTURE).stat().st_size > 10_000

    monkeypatch.setattr("gumbel.lab.measure.measurer", None)  # what is there is not measured again
    monkeypatch.setattr("gumbel.lab.truth.measurer", None)
    assert compare(workdir) == 0
    assert json.loads((workdir / "lab" / measure.NUMBERS).read_text())["rows"] == numbers["rows"]

    assert compare(workdir, "--draws=30") == 2
    assert "holds a comparison of another request or step" in capsys.readouterr().err


def test_rows_say_where_they_come_from_and_times_of_two_machines_are_not_mixed(
    workdir, tmp_path, capsys, monkeypatch
):
    output = f"--output={tmp_path}"
    assert compare(workdir, output, "--estimators=st") == 0
    path = tmp_path / measure.NUMBERS
    numbers = json.loads(path.read_text())
    first = numbers["rows"][0]["from"]
    assert first["git"] == numbers["git"]

    everything = numbers["request"] | {"estimators": ESTIMATORS.split(",")}  # as if interrupted
    path.write_text(json.dumps(numbers | {"request": everything}))
    monkeypatch.setattr(provenance, "code_state", lambda: {"commit": "later", "dirty": False})
    assert compare(workdir, output) == 0
    rows = json.loads(path.read_text())["rows"]
    assert {row["estimator"]: row["from"]["git"] for row in rows} == {
        "st": first["git"],
        "gumbel_softmax": {"commit": "later", "dirty": False},
    }

    device = numbers["device"] | {"cores": 64}
    path.write_text(json.dumps(numbers | {"request": everything, "device": device}))
    capsys.readouterr()
    assert compare(workdir, output) == 2
    assert "was measured with device cores 64, not " in capsys.readouterr().err


def test_the_numbers_record_the_commit_at_which_measuring_began(workdir, tmp_path, monkeypatch):
    commits = iter(["first", *["later"] * 100])
    monkeypatch.setattr(provenance, "code_state", lambda: {"commit": next(commits), "dirty": False})
    output = tmp_path / "lab"
    assert compare(workdir, f"--output={output}") == 0
    assert json.loads((output / measure.NUMBERS).read_text())["git"]["commit"] == "first"


def test_a_damaged_true_gradient_is_named(workdir, capsys):
    assert compare(workdir) == 0
    truth = workdir / "lab" / measure.TRUTH
    truth.write_bytes(truth.read_bytes()[:100])
    assert compare(workdir) == 2
    assert "truth.npz is damaged (" in capsys.readouterr().err


def test_a_cost_of_relaxed_samples_is_refused():
    settings = small.settings("vae", kl="relaxed", estimator__name="gumbel_softmax")
    untrained = loading.untrained(settings)
    with pytest.raises(UserError, match=r"has --config\.kl=relaxed, whose cost has no meaning at"):
        measure.problem_of(untrained, 4)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--estimators=rlo", "unknown estimator 'rlo': did you mean rloo"),
        ("--estimators=", "--estimators= is empty: name some of arm, arms, "),
        ("--images=5000", "--images=5000: digits has 1197 training images: give no more"),
        ("--temperatures=0", "--temperatures=0: give positive numbers that float32 can represent"),
        ("--temperatures=0.5,1e-50", "--temperatures=0.5,1e-50: give positive numbers"),
        ("--temperatures=1e39", "--temperatures=1e39: give positive numbers"),
        ("--temperatures=warm", "--temperatures=warm: give positive numbers"),
        ("--workdir=/nowhere", "/nowhere has no config.json"),
        ("--workdir=", "--workdir=RUN is missing"),
    ],
)
def test_mistakes_are_told_in_one_line(workdir, capsys, flag, message):
    assert compare(workdir, flag) == 2
    assert message in capsys.readouterr().err


def measured(number):
    """A comparison of one estimator, all of whose numbers are this one."""
    row = Row("st", None, "all", False, number, (number, number), *[number] * 4, 2, 1.0)
    return Comparison("enumeration", (row,), {})


def test_no_picture_where_no_error_is_finite(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure, "measure", lambda *_: measured(float("nan")))
    assert compare(workdir, f"--output={tmp_path}") == 0
    assert "no picture: no estimate has a finite error\n" in capsys.readouterr().out
    assert not (tmp_path / measure.PICTURE).exists()


@pytest.mark.filterwarnings("error")
def test_gradients_that_are_0_are_drawn_without_a_warning(tmp_path):
    figures.draw(tmp_path / "lab.png", measured(0.0), title="diverged")
    assert (tmp_path / "lab.png").stat().st_size > 10_000


def test_all_of_a_request_reaches_the_laboratory(workdir, tmp_path, monkeypatch):
    given = {}

    def true_gradient(*_, **options):
        given["truth"] = options
        return library.Truth({}, "made up")

    def compare(*_, **options):
        given["compare"] = options
        return options["known"]

    monkeypatch.setattr(library, "true_gradient", true_gradient)
    monkeypatch.setattr(library, "compare", compare)
    request = measure.Request(("sf",), (0.5,), 30, 7, 50, 4, 9)
    measure.measure(loading.load(workdir), request, tmp_path, lambda *_: None)
    assert given["truth"]["num_draws"] == 50
    expected = {"num_draws": 30, "num_warmup": 7, "max_passes": 9, "temperatures": (0.5,)}
    assert {key: given["compare"][key] for key in expected} == expected
    assert given["compare"]["estimators"] == ("sf",)
    assert given["compare"]["options"]["sf"] == {"centering": True}

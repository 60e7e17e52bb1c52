"""Tables in slices of time: what a plan says, what is left after a slice, and what is moved."""

import time
from pathlib import Path

import numpy as np
import pytest

from experiments import command
from experiments.errors import DivergedError, UserError
from experiments.reproduce import plan, plan_report, plan_speeds, waves
from experiments.reproduce.__main__ import main
from experiments.reproduce.plan import Group
from experiments.reproduce.survey import Survey
from experiments.reproduce.table1 import Table1
from experiments.reproduce.table1_presets import PRESETS
from experiments.reproduce.table2 import PRESETS as PRESETS2
from experiments.reproduce.table2 import Table2
from experiments.reproduce.waves import Slice
from experiments.sweeps import jobs
from experiments.sweeps.engines import Options, attempt
from experiments.training import rundir, signals
from experiments.training.estimates import Estimate, Speed
from experiments.training.job import Job
from scripts import rehearse_slices
from scripts.rehearse_slices import bounds
from tests.experiments import small as small_settings
from tests.experiments.reproduce.test_tables import finish, given, trained

pytestmark = pytest.mark.usefixtures("shared_programs")

SMALL = PRESETS["smoke"]._replace(
    learning_rates=(1e-3, 3e-3),
    columns=("gumbel_softmax",),
    rows=("sbn_bernoulli",),
    seeds=1,
    pick_steps=40,
    final_steps=60,
)
SMALL = SMALL._replace(
    changes=SMALL.changes
    | {"log_every": 20, "eval_every": 20, "checkpoint_every": 20, "steps_per_call": 20}
)
VMAP = Options()


def small(tmp_path):
    return Table1(SMALL, tmp_path / "work", tmp_path / "results")


def test_slices_come_to_the_records_of_an_undisturbed_run(tmp_path, capsys):
    whole = small(tmp_path / "whole")
    assert waves.train(whole, "vmap", VMAP, Slice()) == 0
    expected = bounds(whole.results)
    assert len(expected) == 3
    capsys.readouterr()
    left, home = [], tmp_path / "0"
    for index in range(1, 20):
        # Each slice ends at its first look at the clock, and the next is on another machine.
        status = waves.train(small(home), "vmap", VMAP, Slice(time.monotonic(), thin=True))
        if status == 0:
            break
        assert status == signals.TIME_IS_UP == 75
        left.append(capsys.readouterr().err.splitlines()[-1])
        for checkpoints in (home / "work").rglob("checkpoints"):
            assert len(rundir.saved_steps(checkpoints.parent)) == 1
        home = home.rename(tmp_path / str(index))
    assert status == 0
    # Two runs pick together, one is final, each by 20 steps. What took its last is scored at once.
    assert left == [
        f"stopped with {done} runs done and {runs} left, of {steps} steps: rerun the same command "
        "to resume"
        for done, runs, steps in ((0, 3, 100), (2, 1, 60), (2, 1, 40), (2, 1, 20))
    ]
    assert not list((home / "work").rglob("*.json")), "a finished run is in the next slice's way"
    found = bounds(home / "results")
    assert found.keys() == expected.keys()
    for name, rows in found.items():
        np.testing.assert_allclose(rows, expected[name], rtol=1e-5)
    assert "`gumbel_softmax` | " in capsys.readouterr().out


@pytest.fixture(name="made_up")
def fixture_made_up(monkeypatch):
    """Training that only leaves results, as many of a wave as are asked for; what it was given."""
    calls = []

    def train(todo, engine, options, after_each, deadline):
        calls.append(len(todo))
        for job in todo[: train.most]:
            finish(job, valid=60.0, test=60.0)
        return {}, 75 if train.late else 0

    train.most, train.late, train.calls = None, False, calls
    monkeypatch.setattr(waves.jobs, "train", train)
    return train


def test_a_wave_that_ends_with_the_slice_is_no_failure(tmp_path, made_up):
    made_up.late = True  # the deadline passed after the last run
    table = small(tmp_path)
    assert waves.train(table, "vmap", VMAP, Slice(time.monotonic() + 600)) == 0
    assert made_up.calls == [2, 1]
    made_up.most = 1
    other = small(tmp_path / "other")
    assert waves.train(other, "vmap", VMAP, Slice(time.monotonic() + 600)) == 75
    assert made_up.calls == [2, 1, 2]


def test_a_slice_leaves_diverged_runs_alone(tmp_path, made_up, capsys):
    table = small(tmp_path)
    first = next(table.waves()).jobs[0]
    attempt.fail(first, DivergedError("the cost is not finite"))
    wave = plan.waves(table, "vmap", VMAP)[0]
    assert (wave.failed, len(wave.left)) == (1, 1)
    assert waves.train(table, "vmap", VMAP, Slice(time.monotonic() + 600)) == 1
    assert made_up.calls == [1, 1]
    assert f"diverged before: {first.workdir}" in capsys.readouterr().err


def test_a_run_that_failed_in_an_earlier_slice_is_not_done(tmp_path, monkeypatch):
    table = small(tmp_path)
    for job in next(table.waves()).jobs:
        attempt.fail(job, UserError("out of memory"))
    monkeypatch.setattr(jobs, "train", lambda *_: ({}, 75))  # before their turn has come
    assert waves.train(table, "vmap", VMAP, Slice(time.monotonic() + 600)) == 75


def test_what_is_planned_is_what_trains(tmp_path):
    preset = PRESETS["full"]._replace(rows=("vae_bernoulli",), columns=("gumbel_softmax",))
    preset = preset._replace(extra_columns=("sf",))
    table = Table1(preset, tmp_path / "work", tmp_path / "results")
    expected = [wave for wave in plan.waves(table, "vmap", VMAP) if wave.left]
    assert not (tmp_path / "work").exists()
    waves_trained = trained(table)
    assert [(w.name, len(w.left)) for w in expected] == [
        (w.name, len(w.jobs)) for w in waves_trained
    ]
    assert sum(w.steps for w in expected) == sum(
        job.settings.num_steps for w in waves_trained for job in w.jobs
    )
    assert [len(w.groups) for w in expected][:2] == [1, 2]  # standardized inputs, and as they are
    done = plan.waves(table, "vmap", VMAP)
    assert sum(len(w.left) for w in done) == 0
    assert sum(w.done for w in done) == sum(len(w.jobs) for w in waves_trained)


def test_every_table_has_a_plan(tmp_path):
    for table, runs in (
        (Table2(PRESETS2["smoke"], tmp_path, tmp_path), 2 + 3 + 2 + 1),
        (Survey(PRESETS["smoke"], tmp_path, tmp_path), 15),
    ):
        found = plan.waves(table, "process", VMAP)
        assert sum(len(wave.left) for wave in found) == runs
        assert all(group.runs == 1 for wave in found for group in wave.groups)


def test_a_plan_says_what_it_takes_and_trains_nothing(tmp_path):
    table = small(tmp_path)
    for job in next(table.waves()).jobs:
        finish(job, valid=60.0, test=60.0)
    [final] = [job for wave in plan.waves(table, "vmap", VMAP) for job in wave.left]
    assert not table.results.exists()  # no record was written
    (final.workdir / "checkpoints" / "20").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    said = plan_report.text(
        table, "vmap", VMAP, steps_per_second=2.0, slice_seconds=10.0
    ).splitlines()
    assert sorted(tmp_path.rglob("*")) == before
    assert said[0].startswith("plan of table1, --preset=smoke, by --engine=vmap on 1 x cpu")
    rows = {line.split("  ")[0]: line.split() for line in said}
    assert rows["waves before"][-6:] == ["2", "0", "0", "0", "0", "0.00"]
    assert rows["sbn_bernoulli, seed 0"][-6:] == ["0", "0", "1", "1", "40", "0.33"]
    assert rows["all"] == ["all", "2", "0", "1", "1", "40", "0.33"]
    assert "minutes: 0.33, at the 2 run-steps a second of --steps_per_second" in said
    assert "slices: at least 2.0, of 10 s" in said
    assert "in: no dataset, as digits are bundled" in said
    assert "out: 1 records as JSON, about 3.7 KiB" in said
    # 64 x 20 + 20 x 20 + ... weights, twice with the momentum.
    [program] = [line for line in said if line.startswith("structured_prediction, bernoulli, gum")]
    assert 13.0 < float(program.split()[6]) < 15.0


def test_a_plan_measures_some_programs_and_judges_the_others_by_them(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_speeds, "MOST_SECONDS", 0.0)
    table = small(tmp_path)
    said = plan_report.text(table, "vmap", VMAP)
    assert "by a call of 1 of 2 programs, compiled and timed here; the others are taken" in said
    assert "and 1 more programs" in said
    finish_all = [job for wave in plan.waves(table, "vmap", VMAP) for job in wave.left]
    for job in finish_all:
        finish(job, valid=60.0, test=60.0)
    assert plan_report.text(table, "vmap", VMAP).endswith("nothing to train\n")


def test_thin_leaves_what_a_resume_needs(tmp_path):
    table = small(tmp_path)
    done, going = next(table.waves()).jobs
    finish(done, valid=60.0, test=60.0)
    leave_checkpoints(going)
    table.runs.store.thin()
    assert done.workdir.exists()  # it has no record yet
    table.runs.store.record(done)
    with rundir.locked(done.workdir):
        table.runs.store.thin()
    assert (done.workdir / "result.json").exists()  # another process held it
    table.runs.store.thin()
    assert not done.workdir.exists()
    assert rundir.saved_steps(going.workdir) == [100]
    assert {path.name for path in going.workdir.iterdir()} == {
        "checkpoints",
        "config.json",
        ".lock",
    }


def leave_checkpoints(job: Job) -> None:
    for step in (20, 40, 100):
        (job.workdir / "checkpoints" / str(step)).mkdir(parents=True)
    (job.workdir / "tensorboard").mkdir()
    (job.workdir / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (("figure3", "--plan"), "--plan is for table1, table2, survey: leave it out for figure3"),
        (("toys", "--slice=20"), "--slice is for table1, table2, survey: leave it out for toys"),
        (("figure1", "--thin"), "--thin is for table1, table2, survey: leave it out for figure1"),
        (("figure3", "--rows=sbn_bernoulli"), "--rows is for table1, survey: leave it out for"),
        (("table2", "--estimators=st"), "--estimators is for table1, survey: leave it out for"),
        (("table2", "--seeds=1"), "--seeds is for table1, survey: leave it out for table2"),
        (
            ("toys", "--engine=vmap"),
            "--engine is for table1, table2, survey: leave it out for",
        ),
        (
            ("toys", "--ray_cpus_per_run=2"),
            "--ray_cpus_per_run is for table1, table2, survey",
        ),
        (("table1", "--engine=vmap", "--ray_address=a"), "--ray_address is for --engine=ray, and"),
        (("table1", "--rows=sbn"), "--rows=sbn: no 'sbn': did you mean sbn_bernoulli"),
        (("survey", "--estimators=sf,reinmx"), "--estimators=sf,reinmx: no 'reinmx': did you mean"),
        (("table1", "--estimators=reinmax"), "--estimators=reinmax: --preset=smoke trains"),
        (("table1", "--rows="), "--rows= is empty: name some of sbn_bernoulli, "),
        (("survey", "--estimators="), "--estimators= is empty: name some of"),
        (("table1", "--seeds=9"), "--seeds=9: --preset=smoke has "),
        (("table1", "--slice=0"), "--slice=0: give a finite number over 0"),
        (("table1", "--slice=-3"), "--slice=-3: give a finite number over 0"),
        (("table1", "--slice=nan"), "--slice=nan: give a finite number over 0"),
        (("table1", "--plan", "--steps_per_second=0"), "--steps_per_second=0: give a finite"),
        (("table1", "--steps_per_second=9"), "--steps_per_second is for --plan: leave it out"),
    ],
)
def test_flags_that_say_nothing_are_refused(tmp_path: Path, arguments, wrong):
    with pytest.raises(UserError, match=wrong):
        main(*given(*arguments, f"--workdir={tmp_path / 'work'}", "--preset=smoke"))
    assert not (tmp_path / "work").exists()


def test_the_command_plans(tmp_path, capsys):
    table = Table1(PRESETS["smoke"], tmp_path / "work", tmp_path / "results")
    for wave in table.waves():
        for job in wave.jobs:
            finish(job, valid=60.0, test=60.0)
    flags = (f"--workdir={tmp_path / 'work'}", f"--results={tmp_path / 'results'}")
    assert main(*given("table1", "--plan", "--preset=smoke", *flags)) == 0
    assert capsys.readouterr().out.endswith("nothing to train\n")


@pytest.mark.slow
def test_workers_stop_at_a_deadline_and_let_bounds_end(tmp_path):
    """Each has the deadline: a signal from the sweep would cut the bounds of a run off."""
    whole = small(tmp_path / "whole")
    assert waves.train(whole, "process", VMAP, Slice()) == 0
    table, statuses = small(tmp_path), []
    while not statuses or statuses[-1] == 75:
        assert len(statuses) < 40
        # Longer and longer: on a busy machine workers take their time to start.
        deadline = time.monotonic() + 3.0 * (1 + len(statuses))
        statuses.append(waves.train(table, "process", VMAP, Slice(deadline, thin=True)))
    assert statuses[-1] == 0
    assert len(statuses) > 1
    assert bounds(table.results) == bounds(whole.results)


@pytest.mark.slow
def test_a_rehearsal_with_kills(tmp_path, capsys):
    flags = [f"--workdir={tmp_path}", "--slice=15"]
    assert command.launch(rehearse_slices.main, rehearse_slices.define_flags, flags) == 0
    assert ": 15 of 15 records, " in capsys.readouterr().out


def test_a_rehearsal_notices_what_differs(tmp_path):
    table = small(tmp_path)
    for wave in table.waves():
        for job in wave.jobs:
            finish(job, valid=60.0, test=60.0)
            table.runs.store.record(job)
    found = bounds(table.results)
    assert len(found) == 3
    differing = rehearse_slices.largest_difference
    name, numbers = next(iter(found.items()))
    assert differing(found, found) == 0.0
    assert differing(found, found | {name: [*numbers[:-1], 60.06]}) == pytest.approx(1e-3)
    assert differing(found, {k: v for k, v in found.items() if k != name}) == float("inf")


def test_a_group_takes_the_time_of_the_program_most_like_its_own():
    def group(model, runs, **changes):
        return Group(small_settings.settings(model, **changes), runs, 100)

    def timed(one, speed):
        return plan_speeds.program_of(one), Estimate(0, 0, speed)

    sbn, wider, vae = group("sbn", 4), group("sbn", 9, layers=(8, 4)), group("vae", 4)
    found = dict([timed(sbn, Speed(10.0, 3.0)), timed(wider, Speed(5.0, 1.0))])
    found |= dict([timed(vae, Speed(2.0, 7.0))])
    speeds = plan_speeds.Speeds({}, found, None)
    assert [speeds.seconds(one) for one in (sbn, wider, vae)] == [13.0, 21.0, 57.0]
    assert speeds.seconds(group("sbn", 8)) == 13.0  # the same program of fewer runs
    assert speeds.seconds(group("sbn", 8, layers=(3, 3))) == 21.0  # another, of nearly as many
    assert plan_speeds.Speeds({}, {}, 20.0).seconds(sbn) == 20.0


def test_the_analogies_of_table2_outlive_the_directory_of_their_run(tmp_path):
    preset = PRESETS2["smoke"]
    table = Table2(preset, tmp_path / "work", tmp_path / "results")
    for wave in table.waves():
        for job in wave.jobs:
            finish(job, valid=9.0, test=9.0, validation_accuracy=90.0, test_accuracy=90.0)
            (job.workdir / "pictures.npz").write_bytes(str(job.settings.flat()).encode())
    table.write()
    [job] = table._finals("gumbel_softmax", [0])
    table.runs.store.thin()
    assert not job.workdir.exists()
    fresh = Table2(preset, tmp_path / "elsewhere", tmp_path / "results")
    assert fresh.picture().read_bytes() == str(job.settings.flat()).encode()

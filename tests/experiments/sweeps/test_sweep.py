"""The sweep command: what it refuses, and what it says in the end. None of it trains anything."""

import json
import sys
from unittest import mock

import pytest

from configs import autoencoder, semi_supervised, vae
from experiments import command, sweep
from experiments.config import cli, coarse_schedule, read
from experiments.errors import UserError
from experiments.files import read_json
from experiments.sweeps import grids, jobs, recorded, report
from experiments.sweeps.engines import Options, ray_tasks
from experiments.training import records, run
from tests.experiments import small
from tests.experiments.sweeps.launching import CONFIG, SIX


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid=learing_rate=1"], "unknown config key learing_rate (learing_rate=1): did you"),
        (["--grid="], "--grid: no key is named"),
        (["--grid=seed=x"], "--grid: seed=x: seed takes an integer"),
        (["--grid=momentum=0.5,1"], "the run momentum=1.0: config.momentum=1.0: give a number in"),
        (["--grid=estimator.name=sf,gs"], "the run estimator.name=gs: config.estimator.name: "),
        (["--config.seed=3"], "--config.seed sets a key that the grid varies"),
        (["--engine=threads"], "--engine=threads: value should be one of <process|vmap|ray>"),
        (["--workers=0"], "--workers=0"),
        (["--grid=seed=1", "--grid=sed=2"], "unknown config key sed"),
        (["--workers=2", "--ray_address=a"], "--workers is for a cluster started here"),
        (["--engine=process", "--ray_address=a"], "--ray_address is for --engine=ray, and"),
        (["--engine=process", "--ray_cpus_per_run=1"], "--ray_cpus_per_run is for --engine=ray, "),
        (["--ray_gpus_per_run=0"], "--ray_gpus_per_run is for --engine=ray, and --engine=process"),
        (["--grid=batch_size=5000"], "config.batch_size=5000: digits has"),
        (["--gird=seed=1"], "unknown flag --gird: did you mean --grid?"),
    ],
)
def test_bad_input(fail, arguments, message):
    assert message in fail(*arguments)


def test_workers_are_not_of_a_cluster_that_the_environment_names(fail, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "theirs")
    line = fail("--workers=2", "--engine=ray")
    assert "RAY_ADDRESS=theirs names one to join: omit --workers or unset RAY_ADDRESS" in line


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("there", r"--ray_address=there: .* \(closed\); leave it out to start"),
        (None, r"RAY_ADDRESS=theirs: .* \(closed\); unset it in the environment to start"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_named_as_it_was_given(flag, message, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "theirs")
    ray = mock.Mock(**{"init.side_effect": ConnectionError("closed")})
    with pytest.raises(UserError, match=message):
        ray_tasks.connect(ray, Options(ray_address=flag))


def test_a_config_without_a_sweep_needs_a_grid(fail, home):
    text = CONFIG.partition("def get_sweep")[0]
    (home / "no_sweep.py").write_text(text)
    assert "no_sweep.py has no function get_sweep()" in fail(config="no_sweep.py")
    (home / "empty.py").write_text(text + "def get_sweep():\n    return []\n")
    assert "get_sweep() of" in (line := fail(config="empty.py"))
    assert "returns no run" in line


def test_a_required_key_has_a_value_in_every_run_of_the_grid(home, tmp_path, capsys, monkeypatch):
    required = "    config.learning_rate = config_dict.required_placeholder(float)\n"
    text = "from ml_collections import config_dict\n" + CONFIG.replace(
        "    return small", "    config = small"
    ).replace("\ndef get_sweep", required + "    return config\n\ndef get_sweep")
    (home / "required.py").write_text(text)
    monkeypatch.setattr(sweep, "train", lambda jobs, *_: ({}, trained.extend(jobs) or 0))
    monkeypatch.setattr(sweep, "conclude", lambda *_: 0)
    for grids_given, rates in (
        ([], {1e-3, 1e-2, 3e-2}),
        (["--grid=learning_rate=0.1,0.2"], {0.1, 0.2}),
        (["--grid=seed=1"], set()),
        (["--grid=learning_rate=0.1", "--grid=seed=1"], set()),
    ):
        trained: list = []
        workdir = f"--workdir={tmp_path / str(len(rates))}"
        status = sweep.run([f"--config={home / 'required.py'}", workdir, *grids_given])
        assert {job.settings.learning_rate for job in trained} == rates
        assert status == (0 if rates else 2)
        assert rates or "config.learning_rate has no value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "grid"),
    [
        (["--config.temperature.floor=2"], "temperature.value=3,4"),
        (["--config.estimator.num_samples=4"], "estimator.name=rloo,vimco"),
    ],
)
def test_what_all_runs_share_need_not_be_a_config_of_a_run(
    home, tmp_path, monkeypatch, overrides, grid
):
    monkeypatch.setattr(sweep, "train", lambda jobs, *_: ({}, trained.extend(jobs) or 0))
    trained: list = []
    files = [f"--config={home / 'config.py'}", f"--workdir={tmp_path}"]
    sweep.run([*files, *overrides, f"--grid={grid}"])
    assert len(trained) == 2
    assert [job.settings for job in recorded.jobs_in(tmp_path)] == [job.settings for job in trained]


def test_a_sweep_that_is_refused_leaves_the_directory_free(fail, home):
    assert "give at most that" in fail("--config.batch_size=5000", workdir="corrected")
    assert not (home / "corrected" / "sweep.json").exists()


def test_a_sweep_does_not_write_over_files_that_may_be_the_users(fail, home):
    (home / "papers").mkdir()
    (home / "papers" / "table.md").write_text("mine")
    assert "table.md would be written over" in fail(workdir="papers")
    assert [path.name for path in (home / "papers").glob("[!.]*")] == ["table.md"]


def test_a_sweep_whose_engine_cannot_work_leaves_no_rows(fail, home, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install -e '.[ray]'" in fail("--engine=ray", workdir="no-ray")
    assert not (home / "no-ray" / "sweep.json").exists()
    config = cli.parse([f"--config={home / 'config.py'}", "--workdir=x"]).config
    jobs.open_directory(home / "no-ray", read(config), SIX)
    before = (home / "no-ray" / "sweep.json").read_text()
    fail("--engine=ray", "--grid=seed=7..9", workdir="no-ray")
    assert (home / "no-ray" / "sweep.json").read_text() == before
    fail("--engine=ray", workdir="no-ray")  # the same grid, which another process trains
    assert (home / "no-ray" / "sweep.json").read_text() == before


def test_a_directory_of_another_config_is_refused(fail, home):
    config = cli.parse([f"--config={home / 'config.py'}", "--workdir=x"]).config
    jobs.open_directory(home / "theirs", read(config), SIX)
    before = (home / "theirs" / "sweep.json").read_text()
    line = fail("--config.num_steps=400", workdir="theirs")
    assert "belongs to another config (num_steps is 200 there, " in line
    assert (home / "theirs" / "sweep.json").read_text() == before
    older = json.loads(before)
    del older["config"]["momentum"]  # as if it were younger than the directory
    records.write_json(home / "theirs" / "sweep.json", older)
    jobs.open_directory(home / "theirs", read(config), SIX)
    assert (home / "theirs" / "sweep.json").read_text() == before
    records.write_json(home / "config.json", {})
    assert "that of a single run" in fail(workdir=".")
    (home / "config.json").unlink()


def test_the_result_of_another_config_does_not_count(tmp_path):
    config = small.config("sbn")
    [job] = jobs.jobs_of(config, [{"seed": 3}], tmp_path)
    job.workdir.mkdir(parents=True)
    result = {"steps": 60, "seed": 3, "validation_bound": 70.0, "test_bound": 71.0}
    other = job.settings.flat() | {"batch_size": 7}
    records.write_json(job.workdir / "result.json", {**result, "config": other})
    assert jobs.missing([job]) == [job]
    assert not report.rows_of([job], {})[0].losses
    records.write_json(job.workdir / "result.json", {**result, "config": job.settings.flat()})
    assert jobs.missing([job]) == []
    assert report.rows_of([job], {})[0].losses == {3: 70.0}
    (job.workdir / "result.json").write_text("{")
    assert jobs.missing([job]) == [job]
    assert "result.json is damaged" in report.rows_of([job], {})[0].missing[job.workdir.name]


def test_a_setting_does_not_gain_by_a_seed_that_fails(tmp_path):
    config = small.config("sbn")
    trials = grids.product({"learning_rate": (1e-2, 1e-1), "seed": (0, 1)})
    ours = jobs.jobs_of(config, trials, tmp_path)
    for job, bound in zip(ours[:3], (61.0, 61.0, 60.0), strict=True):
        job.workdir.mkdir(parents=True)
        result = {"steps": 60, "seed": job.settings.seed, "validation_bound": bound}
        records.write_json(job.workdir / "result.json", result | {"config": job.settings.flat()})
    first, _ = report.rows_of(ours, {})
    assert first.setting == {"learning_rate": 0.1}  # under way
    first, last = report.rows_of(ours, {ours[3].workdir: "the training cost is nan"})
    assert (first.mean, last.mean) == (61.0, 60.0)


def test_a_damaged_failure_is_that_run_s_alone(tmp_path):
    ours = jobs.jobs_of(small.config("sbn"), grids.product({"seed": (0, 1)}), tmp_path)
    for job, text in zip(ours, ("{", '{"reason": "why"}'), strict=True):
        job.workdir.mkdir(parents=True)
        (job.workdir / "failure.json").write_text(text)
    damaged, whole = recorded.failures_of(ours).values()
    assert "failure.json is damaged" in damaged
    assert whole == "why"


def test_trials_that_come_to_the_same_settings_train_once(tmp_path):
    config = small.config("sbn")
    same = grids.parse("estimator.name=sf,reinforce", config)
    assert len(jobs.jobs_of(config, same, tmp_path)) == 1
    texts = ("momentum=0.5,0.9", "seed=0,1", "momentum=0.5,0.9;seed=0,1")
    grid = grids.union(grids.parse(text, config) for text in texts)
    found = jobs.jobs_of(config, grid, tmp_path)
    assert len(found) == len({json.dumps(job.settings.flat()) for job in found})
    rows = report.rows_of(found, {})
    assert all(set(row.setting) == {"momentum"} for row in rows)
    # `st` reads no temperature.
    text = "estimator.name=st,gumbel_softmax;temperature.name=constant,linear;seed=0,1"
    found = jobs.jobs_of(config, grids.parse(text, config), tmp_path)
    assert [job.settings.estimator.name for job in found] == ["st"] * 2 + ["gumbel_softmax"] * 4


def test_the_table_is_of_all_grids_of_the_directory(tmp_path, capsys):
    config = small.config("sbn")
    for rates in ((1e-3, 1e-2), (1e-2, 1e-1)):
        grid = grids.product({"learning_rate": rates})
        jobs.open_directory(tmp_path, read(config), grid)
        ours = jobs.jobs_of(config, grid, tmp_path)
        for job in ours:
            bound = 7.0 - job.settings.learning_rate
            result = {"validation_bound": bound, "test_bound": bound, "seed": 0, "steps": 60}
            result["config"] = job.settings.flat()
            job.workdir.mkdir(parents=True, exist_ok=True)
            records.write_json(job.workdir / "result.json", result)
        assert sweep.conclude(tmp_path, ours, {}, 0) == 0
    table = read_json(tmp_path / "table.json")
    assert [row["overrides"]["learning_rate"] for row in table["rows"]] == [0.1, 0.01, 0.001]


def test_a_report_is_made_again_from_what_is_on_disk(tmp_path, capsys):
    config = small.config("sbn")
    grid = grids.product({"learning_rate": (1e-3, 1e-2, 1e-1, 1.0)})
    jobs.open_directory(tmp_path, read(config), grid)
    done, going, failed, _ = jobs.jobs_of(config, grid, tmp_path)
    for job in (done, going, failed):
        job.workdir.mkdir(parents=True)
    result = {"validation_bound": 7.0, "test_bound": 7.0, "seed": 0, "steps": 60}
    result["config"] = done.settings.flat()
    records.write_json(done.workdir / "result.json", result)
    (going.workdir / "metrics.jsonl").write_text('{"step": 20, "validation_bound": 8.0}\n')
    records.write_json(failed.workdir / "failure.json", {"reason": "why"})
    (tmp_path / "flags").write_text(f"--report={tmp_path}\n")
    assert sweep.run([f"--flagfile={tmp_path / 'flags'}"]) == 0
    told = capsys.readouterr().out
    assert sweep.run([f"--report={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == told.splitlines()
    assert lines[2] == "| 0.001 | 7.00 | 1 |  |"
    assert {line.rpartition(": ")[2] for line in lines[4:6]} == {"why |", "not started |"}
    assert lines[3].endswith(": at step 20 of 60, validation bound 8.00 |")
    assert lines[-1] == f"plot: {tmp_path / 'sweep.png'}"
    assert sweep.run(["--report", str(tmp_path / "none")]) == 2
    assert "is not a sweep: name the --workdir of one" in capsys.readouterr().err
    for other in ("--grid=seed=0", "--config.seed=1", "--engine=vmap"):
        assert sweep.run([f"--report={tmp_path}", other]) == command.USER_ERROR
        assert f"takes no other flags: leave out {other}" in capsys.readouterr().err


def test_a_run_that_was_lost_is_a_failure(tmp_path, capsys):
    config, grid = small.config("sbn"), grids.product({"seed": (0,)})
    jobs.open_directory(tmp_path, read(config), grid)
    ours = jobs.jobs_of(config, grid, tmp_path)
    assert sweep.conclude(tmp_path, ours, {}, 0) == command.FAILED
    assert "not finished: give the command again" in capsys.readouterr().err


def test_a_sweep_says_which_swept_keys_do_nothing(tmp_path, caplog):
    config = small.config("vae", temperature__name="exponential")
    trials = grids.parse("estimator.name=st,gumbel_softmax;temperature.rate=1e-5,1e-4", config)
    sweep.warn_of_unread(jobs.jobs_of(config, trials, tmp_path), {})
    [message] = caplog.messages
    assert message == (
        "temperature.rate does nothing in 1 of 3 runs: estimator.name=st reads no temperature"
    )


def test_a_sweep_says_which_schedules_have_few_steps(tmp_path, caplog):
    config = small.config("vae", temperature__name="linear", num_steps=3000)
    trials = grids.parse("temperature.interval=1,500,1000;seed=0,1", config)
    sweep.warn_of_coarse_schedules(jobs.jobs_of(config, trials, tmp_path))
    [message] = caplog.messages
    assert message.startswith("temperature.interval=1000 changes the temperature 2 times in num_st")
    assert message.endswith(": lower it, in 2 of 6 runs")


def test_the_steps_of_a_schedule_are_counted_while_it_lasts():
    config = small.config("vae", temperature__name="cosine", num_steps=10_000)
    config.temperature.interval, config.temperature.share = 1000, 0.15
    assert coarse_schedule(read(config)) == (
        "temperature.interval=1000 changes the temperature 2 times in temperature.share=0.15 of "
        "num_steps=10000: lower it"
    )
    config.temperature.share = 0.5
    assert coarse_schedule(read(config)) is None


@pytest.mark.parametrize(
    ("file", "trial", "why"),
    [
        (semi_supervised, {"standardize": False}, "task=semi_supervised has none"),
        (semi_supervised, {"layers": (30,)}, "task=semi_supervised has none"),
        (
            *(semi_supervised, {"style_beta_share": 0.0, "style_beta": 2.0}),
            "style_beta_share=0 has a weight of 1 from the first step on",
        ),
        (
            *(semi_supervised, {"style_beta": 1.0, "style_beta_share": 0.5}),
            "style_beta=1 is the weight at the end, too",
        ),
        (autoencoder, {"standardize": False}, "task=autoencoder has none"),
        (vae, {"binarization": "dynamic"}, "dataset=binarized_mnist is binary"),
        (
            *(vae, {"estimator.name": "st", "estimator.centering": True}),
            "estimator.name=st has none",
        ),
        (vae, {"standardize": False, "layers": (30,)}, None),
    ],
)
def test_keys_of_another_task_dataset_or_estimator_do_nothing(file, trial, why, tmp_path, caplog):
    config = file.get_config()
    sweep.warn_of_unread(jobs.jobs_of(config, [trial], tmp_path), {})
    key = list(trial)[-1]
    assert caplog.messages == ([f"{key} does nothing in 1 of 1 runs: {why}"] if why else [])


def test_a_single_run_does_not_train_in_a_sweeps_directory(tmp_path, capsys):
    config, trials = small.config("sbn"), grids.product({"seed": (0,)})
    jobs.open_directory(tmp_path, read(config), trials)
    with pytest.raises(UserError, match="is that of a sweep: choose another directory"):
        run.train(read(config), tmp_path)
    jobs.open_directory(tmp_path, read(config), trials)  # and the sweep can go on


def test_all_runs_of_a_sweep_have_its_trackers_and_what_was_changed_for_all(
    home, tmp_path, monkeypatch
):
    trained = []
    monkeypatch.setattr(sweep, "train", lambda jobs, *_: ({}, trained.extend(jobs) or 0))
    monkeypatch.setattr(sweep, "conclude", lambda *_: 0)
    flags = ["--grid=seed=0,1", "--config.momentum=0.5", "--tracker=none", "--engine=vmap"]
    assert sweep.run([f"--config={home / 'config.py'}", f"--workdir={tmp_path}", *flags]) == 0
    assert [job.trackers for job in trained] == [(), ()]
    assert [job.changes for job in trained] == [{"momentum": 0.5, "seed": seed} for seed in (0, 1)]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("latent=categorical;num_classes=2,3", 2),
        ("latent=bernoulli;num_classes=2,3", 1),
        ("optimizer=sgd;momentum=0.5,0.9", 2),
        ("optimizer=adam;momentum=0.5,0.9", 1),
        ("dataset=digits;binarization=threshold,dynamic", 2),
        ("dataset=binarized_mnist;binarization=threshold,dynamic", 1),
        ("temperature.name=linear;temperature.share=0.5,1", 2),
        ("temperature.name=constant;temperature.share=0.5,1", 1),
        ("estimator.name=rebar;temperature.value=0.5,1", 2),
        ("estimator.name=st;temperature.value=0.5,1", 1),
        ("estimator.name=sf;estimator.centering=true,false", 2),
        ("estimator.name=st;estimator.centering=true,false", 1),
    ],
)
def test_what_a_run_reads_tells_trials_apart_and_nothing_else(text, runs, tmp_path):
    config = small.config("vae")
    assert len(jobs.jobs_of(config, grids.parse(text, config), tmp_path)) == runs

"""The scripts: what they refuse, in one line, and that nothing is lost by it."""

import json

import jax
import pytest

from experiments import command
from experiments.errors import UserError
from experiments.files import read_json
from experiments.training import records
from scripts import (
    benchmark_pytorch,
    benchmark_sides,
    class_gradients,
    collect,
    many_runs,
    mutate,
    results_tables,
    slow_bound,
)


def run(script, *arguments):
    argv = [str(argument) for argument in arguments]
    return command.launch(script.main, script.define_flags, argv, takes="WORKDIR [WORKDIR ...]")


def leave_run(workdir, **config):
    """What `collect` reads of a finished run."""
    workdir.mkdir()
    named = {"task": "generative", "latent": "bernoulli", "estimator.name": "st"}
    result = {"config": named | config, "steps": 20, "seed": 0}
    records.write_json(workdir / "result.json", result)
    rows = [
        {"step": 0, "validation_bound": 2.0},
        {"step": 10},
        {"step": 20, "validation_bound": 1.0},
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_collect_copies_a_run_with_its_curve(tmp_path):
    leave_run(tmp_path / "run")
    assert run(collect, tmp_path / "run", "--output", tmp_path / "out") == 0
    [path] = (tmp_path / "out").iterdir()
    assert path.name == "vae-bernoulli-st-20-seed0.json"
    assert [row["step"] for row in read_json(path)["curve"]] == [0, 20]


def test_collect_expands_a_tilde_that_the_shell_leaves(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    leave_run(tmp_path / "run")
    assert run(collect, "~/run", "--output=~/out") == 0
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_collect_writes_over_no_run_of_another_config(tmp_path, capsys):
    for name, rate in (("first", 0.1), ("second", 0.2)):
        leave_run(tmp_path / name, learning_rate=rate)
    out = ("--output", tmp_path / "out")
    assert run(collect, tmp_path / "first", *out) == 0
    assert run(collect, tmp_path / "second", *out) == 2
    assert "is of another config (learning_rate is " in capsys.readouterr().err
    [path] = (tmp_path / "out").iterdir()
    assert read_json(path)["config"]["learning_rate"] == 0.1


def test_collect_renews_a_record_that_is_older_than_a_key(tmp_path):
    leave_run(tmp_path / "older")
    leave_run(tmp_path / "newer", **{"temperature.average_over": 10.0})  # its default
    for name in ("older", "newer"):
        assert run(collect, tmp_path / name, "--output", tmp_path / "out") == 0
    [path] = (tmp_path / "out").iterdir()
    assert "temperature.average_over" in read_json(path)["config"]


def test_collect_of_what_is_no_run(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(collect, tmp_path / "file", "--output", tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_class_gradients_looks_before_it_measures(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(class_gradients, "measure", pytest.fail)
    output = tmp_path / "none" / "out.json"
    assert run(class_gradients, tmp_path, "--output", output) == 2
    assert "there is no" in capsys.readouterr().err
    assert run(class_gradients, tmp_path, "--output", tmp_path) == 2
    assert f"--output={tmp_path} is a directory: name a file" in capsys.readouterr().err
    assert run(class_gradients, tmp_path) == 2
    assert "has no config.json" in capsys.readouterr().err
    assert run(class_gradients, tmp_path, "--images=0") == 2
    assert "--images=0" in capsys.readouterr().err
    assert run(class_gradients) == 2
    assert capsys.readouterr().err == "error: WORKDIR is missing: try --help\n"


def test_the_slow_bound_looks_before_it_computes(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(slow_bound, "bounds", pytest.fail)
    monkeypatch.setattr(slow_bound.loading, "load", lambda workdir: {"good": None}[workdir])
    assert run(slow_bound, "good", "--output", tmp_path / "none" / "out.json") == 2
    with pytest.raises(KeyError):  # of the second directory
        run(slow_bound, "good", "bad", "--debug")


def test_many_runs_go_to_a_new_directory_in_whole_grids(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(many_runs, "measured", pytest.fail)
    assert many(f"--workdir={tmp_path}", "--runs=15") == 2
    assert "--runs=15: give a multiple of 10" in capsys.readouterr().err
    (tmp_path / "sweep").mkdir()
    assert many(f"--workdir={tmp_path}") == 2
    assert "has a sweep: name a new directory" in capsys.readouterr().err


def many(*arguments):
    return command.launch(many_runs.main, many_runs.define_flags, list(arguments))


def leave_tree(root):
    """A function, and a test that knows one of its values."""
    (root / "tests").mkdir()
    (root / "double.py").write_text("def double(x):\n    return 2 * x\n")
    text = "from double import double\n\n\ndef test_double():\n    assert double(2) == 4\n"
    (root / "tests" / "test_double.py").write_text(text)


def mutation(new, **more):
    tests = ("tests/test_double.py",)
    return mutate.Mutation("it doubles", "double.py", "2 * x", new, tests, **more)


def test_mutations_are_killed_or_survive(tmp_path, capsys):
    leave_tree(tmp_path)
    before = (tmp_path / "double.py").read_text()
    unseen = mutation("x + 2")  # as good where the test looks
    explained = unseen._replace(survives="2 + 2 is 4")
    assert mutate.trial([mutation("3 * x"), unseen, explained], tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        "killed   double.py: it doubles",
        "survived double.py: it doubles",
        "survived double.py: it doubles (2 + 2 is 4)",
        "1 of 3 killed",
    ]
    assert (tmp_path / "double.py").read_text() == before


def test_mutations_that_prove_nothing_are_refused(tmp_path):
    leave_tree(tmp_path)
    for wrong in (mutation("3 * x")._replace(old="5 * x"), mutation("2 * x")):
        with pytest.raises(UserError, match="change the mutation"):
            wrong.applied(tmp_path)
    with pytest.raises(UserError, match="pytest cannot run"):
        mutate.is_killed(mutation("2 *"), tmp_path)
    (tmp_path / "double.py").write_text("def double(x):\n    return 3 * x\n")
    with pytest.raises(UserError, match="fails without any mutation"):
        mutate.trial([mutation("2 * x")._replace(old="3 * x")], tmp_path)


def test_the_mutations_fit_the_code():
    mutations = mutate.read(mutate.ROOT / "scripts" / "mutations.toml")
    assert len(mutations) >= 40
    for each in mutations:
        assert each.applied(mutate.ROOT)
        for test in each.tests:
            file, name = test.split("::")
            assert f"def {name.split('[')[0]}(" in (mutate.ROOT / file).read_text(), test


def benchmark(*arguments):
    argv = [str(argument) for argument in arguments]
    return command.launch(benchmark_pytorch.main, benchmark_pytorch.define_flags, argv)


def test_the_benchmark_refuses_what_it_cannot_time(monkeypatch, capsys):
    monkeypatch.setattr(benchmark_pytorch.importlib.util, "find_spec", lambda _name: None)
    for arguments, said in (
        ((), "PyTorch is not installed: pip install torch, or --sides=jax,products"),
        (("--sides=jax,mkl",), "--sides=jax,mkl: give some of jax,torch,products"),
        (("--sides=jax", "--processes=1000"), "--processes: give a number from 1 to"),
    ):
        assert benchmark(*arguments) == 2
        assert said in capsys.readouterr().err


def test_the_benchmark_without_pytorch_gives_the_share_of_the_products(monkeypatch, tmp_path):
    """The turns are replaced; those of a record without PyTorch give one ratio."""
    turns = [{"jax": 6.0, "products": 8.0}, {"jax": 9.0, "products": 10.0}]
    monkeypatch.setattr(benchmark_pytorch, "measure", lambda *_: turns)
    path = tmp_path / "speed.json"
    assert benchmark("--model=vae", "--sides=jax,products", f"--output={path}") == 0
    record = read_json(path)
    assert record["median_share"] == pytest.approx(0.825)
    assert (record["trained"], record["jax_steps_per_second"]) == ("vae", [6.0, 9.0])
    assert not {"median_ratio", "torch"} & set(record)
    path.rename(tmp_path / "benchmark_pytorch_x.json")
    table = results_tables.pytorch_ratios(tmp_path)
    assert "| the categorical VAE | 1 |  |  | 82% | 2 rounds |" in table


@pytest.mark.parametrize("model", ["sbn", "semi_supervised"])
def test_the_benchmarked_products_reach_every_weight(model):
    """Else the compiler would leave some out."""
    make = benchmark_sides.chain if model == "sbn" else lambda _: benchmark_sides.convolutions()
    weights, cost = make(benchmark_sides.MODELS[model].widths)
    gradient = jax.jit(jax.grad(cost))(weights)
    assert all(float(abs(leaf).min()) > 0 for leaf in gradient)

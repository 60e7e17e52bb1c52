"""What a user may get wrong, each through the launcher: one line that names the fix, status 2."""

from pathlib import Path

import pytest

from experiments import train
from experiments.config import cli
from gumbel import estimators

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
TINY = (
    "--config.dataset=digits",
    "--config.num_steps=20",
    "--config.log_every=10",
    "--config.eval_every=10",
    "--config.checkpoint_every=10",
    "--config.batch_size=10",
    "--config.test_num_samples=2",
)


@pytest.fixture(name="refused")
def fixture_refused(tmp_path, capsys):
    """Runs the launcher, which must refuse; returns the one line that it says."""

    def refused(*arguments: str, config: str = "sbn", tiny: bool = True) -> str:
        status = cli.run(
            train.main,
            [
                f"--config={CONFIGS / config}.py",
                f"--workdir={tmp_path / 'run'}",
                *(TINY if tiny else ()),
                *arguments,
            ],
        )
        captured = capsys.readouterr()
        assert status == 2
        assert captured.out == ""
        lines = captured.err.strip().splitlines()
        assert lines[-1].startswith("error: ")
        assert not any("Traceback" in line for line in lines)
        # Nothing is left behind that would stand in the way of the mended command.
        assert not (tmp_path / "run" / "config.json").exists()
        return lines[-1]

    return refused


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.learing_rate=1"], "unknown config key learing_rate"),
        (["--config.learing_rate=1"], "did you mean learning_rate"),
        (["--config.estimator.name=gumbel_sofmax"], "did you mean gumbel_softmax"),
        (["--config.dataset=minst"], "did you mean mnist"),
        (["--config.latent=gaussian"], "choose one of bernoulli, categorical"),
        (["--config.optimizer=lion"], "choose one of sgd, adam"),
        (["--config.temperature.name=exponental"], "did you mean exponential"),
        (["--config.learning_rate=fast"], "learning_rate takes a number"),
        (["--config.num_steps=1.5"], "num_steps takes an integer"),
        (["--config.learning_rate=-1.0"], "give a finite number over 0"),
        (["--config.learning_rate=nan"], "give a finite number over 0"),
        (["--config.temperature.value=0.0"], "config.temperature.value=0.0: give a finite number"),
        (["--config.temperature.value=-1.0"], "config.temperature.value=-1.0: give a finite"),
        (["--config.temperature.value=inf"], "config.temperature.value=inf: give a finite"),
        (["--config.temperature.value=nan"], "config.temperature.value=nan: give a finite"),
        (["--config.temperature.value=1e-46"], "config.temperature.value=1e-46: give a finite"),
        (["--config.temperature.value=1e39"], "config.temperature.value=1e+39: give a finite"),
        (["--config.temperature.rate=-1.0"], "config.temperature.rate=-1.0: give a finite number"),
        (["--config.temperature.floor=0.0"], "config.temperature.floor=0.0: give a finite"),
        (["--config.temperature.share=0.0"], "config.temperature.share=0.0: give a number in"),
        (["--config.temperature.interval=0"], "give a whole number"),
        (["--config.num_steps=0"], "give a whole number from 1 to 2147483647"),
        (["--config.num_steps=3000000000"], "give a whole number from 1 to 2147483647"),
        (["--config.momentum=1.0"], r"give a number in [0, 1)"),
        (["--config.seed=-1"], "whole number from 0"),
        (["--config.eval_every=15"], "give a multiple of log_every=10"),
        (["--config.checkpoint_every=15"], "give a multiple of log_every=10"),
        (["--config.layers=()"], "give at least one layer"),
        (["--config.layers=(200, 0)"], "give at least one layer, of 1 unit or more"),
        (["--config.layers=(2.5,)"], "layers takes a tuple of the same types"),
        (
            ["--config.task=generative"],
            "no decoder: begin get_config() with experiments.config.base",
        ),
        (["--config.task=generativ"], "config.task='generativ' is not known: did you mean generat"),
        (["--config.batch_size=100000"], "digits has 1197 training images; give at most that"),
        (["--config.estimator.num_samples=3"], "'gumbel_softmax' has no option 'num_samples'"),
        (
            ["--config.estimator.name=vimco", "--config.estimator.num_samples=1"],
            "num_samples must be an integer >= 2, got 1",
        ),
        (
            ["--config.estimator.name=sf", "--config.estimator.decay=1.0"],
            "decay must be in [0, 1), got 1.0",
        ),
        (
            ["--config.estimator.name=nvil", "--config.estimator.baseline_hidden=0"],
            "baseline_hidden must be an integer >= 1, got 0",
        ),
        (
            ["--config.estimator.name=slope_annealed_st", "--config.estimator.slope_rate=nan"],
            "slope_rate must be a finite number >= 0, got nan",
        ),
        (["--config.latent=categorical", "--config.num_classes=1"], "give at least 2"),
        (
            ["--config.latent=categorical", "--config.layers=(205,)"],
            "give multiples of 10 classes",
        ),
        (
            ["--config.temperature.name=learned", "--config.estimator.name=sf"],
            "use gumbel_softmax or st_gumbel_softmax",
        ),
        (
            ["--config.estimator.name=marginalization", "--config.layers=(10, 10)"],
            "1048576 joint values (h1: 2^10, h2: 2^10)",
        ),
        (["--config.estimator.name=marginalization"], "about 10^120 joint values"),
    ],
)
def test_a_mistake_in_the_config(refused, arguments, said):
    assert said in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.layers=(20, 20)"], "give one layer"),
        (["--config.decoder=(0,)"], "config.decoder=(0,): give whole numbers of at least 1"),
        (["--config.decoder=(2.5,)"], "config.decoder=(2.5,): give whole numbers of at least 1"),
        (
            ["--config.temperature.name=learned", "--config.temperature.floor=1.0"],
            "config.temperature.floor=1.0: give less than temperature.value",
        ),
        (["--config.kl=exact"], "choose one of sample, analytic, relaxed"),
        (
            ["--config.kl=relaxed", "--config.estimator.name=st"],
            "'st' draws discrete samples; use sample or analytic",
        ),
        (
            ["--config.kl=analytic", "--config.estimator.name=vimco"],
            "vimco needs the log weight of each sample; use sample",
        ),
        (["--config.temperature.floor=2.0"], "give at most temperature.value=1.0"),
    ],
)
def test_a_mistake_in_the_config_of_a_vae(refused, arguments, said):
    assert said in refused(*arguments, config="vae")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("del config.momentum", "config has no momentum: begin get_config() with"),
        ("del config.temperature.floor", "config has no temperature.floor: begin"),
        ("config.batch_size = 'all'", "config.batch_size='all': give a value like 100"),
        ("config.standardize = 1", "config.standardize=1: give a value like True"),
        ("config.layers = (200, 'a')", "give at least one layer, of 1 unit or more"),
        (
            "config.validation_num_samples = 3_000_000_000",
            "give a whole number from 1 to 2147483647",
        ),
    ],
)
def test_a_mistake_in_a_config_file(tmp_path, capsys, changes, said):
    file = tmp_path / "mine.py"
    file.write_text(f"""
from experiments.config import base

def get_config():
    config = base("structured_prediction")
    with config.ignore_type():
        {changes}
    return config
""")
    assert cli.run(train.main, [f"--config={file}", f"--workdir={tmp_path / 'run'}"]) == 2
    assert said in capsys.readouterr().err


def test_an_estimator_that_the_family_cannot_serve(refused):
    @estimators.register("only_bernoulli", unbiased=False, families=("bernoulli",))
    def only_bernoulli(family):
        return estimators.st(family)

    try:
        said = refused("--config.estimator.name=only_bernoulli", "--config.latent=categorical")
    finally:
        estimators.unregister("only_bernoulli")
    assert "cannot serve categorical variables: it is defined for bernoulli" in said


def test_data_that_is_absent_with_no_network(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("GUMBEL_CACHE_DIR", str(tmp_path / "empty"))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    said = refused("--config.dataset=binarized_mnist")
    assert "--config.dataset=digits" in said
    assert "TFDS_DATA_DIR" in said


def test_a_workdir_that_cannot_be_made(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = [f"--config={CONFIGS / 'sbn'}.py", *TINY]
    assert cli.run(train.main, [*arguments, f"--workdir={tmp_path / 'file'}"]) == 2
    assert "is a file: name a directory" in capsys.readouterr().err
    assert cli.run(train.main, [*arguments, f"--workdir={tmp_path / 'file' / 'below'}"]) == 2
    assert "cannot be used (Not a directory)" in capsys.readouterr().err

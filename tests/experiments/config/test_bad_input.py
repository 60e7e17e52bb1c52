"""What a user may get wrong, each through the launcher: one line that names the fix, status 2."""

from pathlib import Path

import pytest

from experiments import train
from experiments.config import cli
from experiments.training import memory
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

_EVERY = ("num_steps", "log_every", "eval_every", "checkpoint_every")


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
        # Nothing is left behind that would stand in the way of the corrected command.
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
        (["--config.temperature.interval=0"], "give an integer"),
        (["--config.num_steps=0"], "give an integer from 1 to 2147483647"),
        (["--config.num_steps=3000000000"], "give an integer from 1 to 2147483647"),
        (["--config.momentum=1.0"], r"give a number in [0, 1)"),
        (["--config.seed=-1"], "integer from 0"),
        (["--config.eval_every=15"], "give a multiple of log_every=10"),
        (["--config.checkpoint_every=15"], "give a multiple of log_every=10"),
        (["--config.layers=()"], "give at least one layer"),
        (["--config.layers=(200, 0)"], "give at least one layer, of 1 unit or more"),
        (["--config.layers=(2.5,)"], "layers takes a tuple"),
        (["--config.task=generative"], "a config is of one task: give another --config instead"),
        (["--config.task=generativ"], "a config is of one task: give another --config instead"),
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
            "use another schedule, or one of decoupled_st, ",
        ),
        (
            ["--config.estimator.name=marginalization", "--config.layers=(10, 10)"],
            "1048576 joint values (h1: 2^10, h2: 2^10)",
        ),
        (["--config.estimator.name=marginalization"], "about 10^120 joint values"),
        (["--config.layers=(2,)*3"], "layers takes a tuple"),
        (["--config.layers="], "layers takes a tuple"),
        (["--config.layers=(200"], "layers takes a tuple"),
        (["--config.layers=[(200,)]"], "layers takes a tuple"),
        (["--config.layers=" + "(" * 2000], "layers takes a tuple"),
        (["--config.layers=(3000000000,)"], "give at least one layer, of 1 unit or more"),
        ([f"--config.layers=({'2,' * 101})"], "give at most 100"),
        (["--config.layers=(200,)", "--config.layers=wide"], "layers takes a tuple"),
        (["--config.layers=wide", "--config.layers=(200,)"], "layers takes a tuple"),
        (["--config.seed=x", "--config.seed=1"], "seed takes an integer"),
        (["--config.seed=1", "--config.seed=x"], "seed takes an integer"),
        (["--config.seed=9223372036854775808"], "give an integer from 0 to 2147483647"),
        (["--config.seed=" + "9" * 400], "give an integer from 0 to 2147483647"),
        (["--config.learning_rate=1e999"], "give a finite number over 0"),
        (["--config.learning_rate=-inf"], "give a finite number over 0"),
        (["--config.learning_rate=0"], "give a finite number over 0"),
        (["--config.momentum=-0.1"], "give a number in [0, 1)"),
        (["--config.momentum=nan"], "give a number in [0, 1)"),
        (["--config.temperature.interval=-1"], "give an integer"),
        (["--config.temperature.share=1.5"], "give a number in (0, 1]"),
        (["--config.batch_size=0"], "give an integer"),
        (["--config.eval_batch_size=0"], "give an integer"),
        (["--config.test_num_samples=0"], "give an integer"),
        (["--config.steps_per_call=0"], "give an integer"),
        (["--config.log_every=0"], "give an integer"),
        (["--config.num_classes=0"], "give an integer"),
        (["--config.standardize=perhaps"], "standardize takes true or false"),
        (["--config.dataset="], "config.dataset='' is not known"),
        (["--config.dataset=../digits"], "config.dataset='../digits' is not known"),
        (["--config.dataset=dig\0its"], "is not known: did you mean digits"),
        (["--config.task=\ud800"], "a config is of one task: give another --config instead"),
        (["--config.task="], "a config is of one task: give another --config instead"),
        (["--config.estimator.name=../sf"], "config.estimator.name"),
        (["--config.estimator=sf"], "as in --config.estimator.name=sf"),
        (["--config.estimator.decay=2", "--config.estimator.name=nvil"], "decay must be in [0, 1)"),
        (["--config.estimator.num_samples=x"], "num_samples takes an integer"),
        (["--config.learning_rate_schedule=step"], "choose one of constant, cosine"),
        (["--config.binarization=none"], "choose one of threshold, dynamic"),
        (["--config"], "Missing value for flag --config"),
        (["--config."], "unknown config key"),
        (["--config.=3"], "unknown config key"),
        (["--undefined"], "unknown flag --undefined"),
    ],
)
def test_a_mistake_in_the_config(refused, arguments, said):
    assert said in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.layers=(20, 20)"], "give one layer"),
        (["--config.decoder=(0,)"], "config.decoder=(0,): give integers of at least 1"),
        (["--config.decoder=(2.5,)"], "config.decoder=(2.5,): give integers of at least 1"),
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
            "give an integer from 1 to 2147483647",
        ),
        ("config.note = object()", "config has an unknown key 'note': leave it out"),
        ("config.note = float('nan')", "config has an unknown key 'note': leave it out"),
        ("config.note = lambda: 3", "config has an unknown key 'note': leave it out"),
        ("import numpy; config.note = numpy.zeros(3)", "config has an unknown key 'note'"),
        ("config.learning_rat = 0.1", "unknown key 'learning_rat': did you mean learning_rate"),
        ("config.group = type(config)({'a': 1})", "config has an unknown key 'group'"),
        ("config.estimator.deca = 0.1", "'estimator.deca': did you mean estimator.decay"),
        ("config.estimator.note = object()", "config has an unknown key 'estimator.note'"),
        ("config.temperature.rat = 0.1", "did you mean temperature.rate"),
        ("config.estimator.decay = 'slow'", "config.estimator.decay='slow': give a number"),
        ("config.estimator.decay = [0.9]", "config.estimator.decay=[0.9]: give a number"),
        ("config.estimator = 3", "config has no estimator.name: begin get_config() with"),
        ("config.temperature = None", "config has no temperature.name: begin get_config() with"),
        ("config.task = None", "config.task=None is not known"),
        ("config.task = ['sbn']", "config.task=['sbn'] is not known"),
        ("config.dataset = 3", "config.dataset=3: give a value like 'binarized_mnist'"),
        ("config.learning_rate = '0.1'", "config.learning_rate='0.1': give a value like 0.001"),
        ("config.learning_rate = None", "config.learning_rate=None: give a value like 0.001"),
        ("config.learning_rate = 1j", "config.learning_rate=1j: give a value like 0.001"),
        ("config.num_steps = True", "config.num_steps=True: give a value like 200000"),
        ("config.layers = 200", "config.layers=200: give a value like (200, 200)"),
        ("config.layers = (2,) * 10**6", "give at most 100"),
        ("config.layers = ((2,),)", "give at least one layer, of 1 unit or more"),
        ("del config.task", "config has no task: begin get_config()"),
        ("del config.estimator.name", "config has no estimator.name: begin get_config()"),
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("raise SystemExit(0)", "calls sys.exit()"),
        ("return None", "returns a NoneType"),
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


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        pytest.param(
            "sbn",
            ["layers=(1000000,1000000)"],
            "config.layers=(1000000, 1000000): the model",
            marks=pytest.mark.slow,
        ),
        ("sbn", ["layers=(2147483647,2147483647)"], "PiB of memory"),
        pytest.param(
            "sbn",
            ["layers=(100000,100000)", "estimator.name=vimco"],
            "lower config.layers",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "vae",
            ["decoder=(1000000000,)"],
            "config.decoder=(1000000000,): the model",
            marks=pytest.mark.slow,
        ),
        ("vae", ["decoder=(1000000,1000000)"], "lower config.decoder"),
        ("sbn", ["estimator.name=vimco", "estimator.num_samples=1000000000"], "a step needs"),
        pytest.param(
            "vae",
            ["estimator.name=vimco", "estimator.num_samples=2147483647"],
            "a step needs",
            marks=pytest.mark.slow,
        ),
        ("sbn", ["estimator.name=nvil", "estimator.baseline_hidden=1000000000"], "a step needs"),
        ("sbn", ["eval_batch_size=2147483647"], "config.eval_batch_size=2147483647: a batch of"),
        (
            "sbn",
            [f"{key}=2000000000" for key in _EVERY],
            "config.log_every=2000000000: the order of the images",
        ),
        ("autoencoder", ["hidden=2147483647"], "config.hidden=2147483647: the model"),
        ("autoencoder", ["embedding=2147483647"], "config.embedding=2147483647: the model"),
        ("semi_supervised", ["head=1000000000"], "config.head=1000000000: the model"),
        ("semi_supervised", ["style_dim=1000000000"], "config.style_dim=1000000000: the model"),
        ("semi_supervised", ["encoder=(9,1000000,1000000)"], "lower config.encoder"),
        ("semi_supervised", ["decoder=(1000000,1000000,9)"], "lower config.decoder"),
        (
            "semi_supervised",
            ["labels=random", "num_classes=1000000000", "num_labels=1000000000"],
            "config.num_classes=1000000000: digits has 1197 training images",
        ),
    ],
)
def test_what_no_memory_holds(refused, monkeypatch, model, arguments, said):
    monkeypatch.setattr(memory, "device_memory", lambda *_: 2**35)
    assert said in refused(*(f"--config.{each}" for each in arguments), config=model)


def test_an_estimator_that_the_family_cannot_serve(refused):
    @estimators.register("only_bernoulli", unbiased=False, families=("bernoulli",))
    def only_bernoulli(family):
        return estimators.st(family)

    try:
        said = refused("--config.estimator.name=only_bernoulli", "--config.latent=categorical")
    finally:
        estimators.unregister("only_bernoulli")
    assert "does not support categorical variables: it is defined for bernoulli" in said


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


@pytest.mark.parametrize(
    ("directory", "said"),
    [
        ("a\0b", "a path has no NUL character"),
        ("a\ud800b", "give a path that is valid UTF-8"),
        ("~nosuchuser/a", "--workdir=~nosuchuser/a: there is no user 'nosuchuser'"),
        ("w" * 300, "File name too long"),
        ("/dev/null/a", "Not a directory"),
    ],
)
def test_a_workdir_that_no_directory_can_be(refused, directory, said):
    assert said in refused(f"--workdir={directory}")


@pytest.mark.parametrize("name", ["GUMBEL_CACHE_DIR", "TFDS_DATA_DIR", "XDG_CACHE_HOME"])
def test_a_variable_that_names_no_directory(refused, monkeypatch, tmp_path, name):
    for each in ("GUMBEL_CACHE_DIR", "TFDS_DATA_DIR"):
        monkeypatch.setenv(each, str(tmp_path / "none"))
    monkeypatch.delenv("GUMBEL_CACHE_DIR")
    if name == "XDG_CACHE_HOME":  # else the compiled programs are kept there, too
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv(name, "~nosuchuser/x")
    said = refused("--config.dataset=binarized_mnist")
    assert f"{name}=~nosuchuser/x: there is no user 'nosuchuser'" in said


def test_a_workdir_that_cannot_be_made(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = [f"--config={CONFIGS / 'sbn'}.py", *TINY]
    assert cli.run(train.main, [*arguments, f"--workdir={tmp_path / 'file'}"]) == 2
    assert "is a file: name a directory" in capsys.readouterr().err
    assert cli.run(train.main, [*arguments, f"--workdir={tmp_path / 'file' / 'below'}"]) == 2
    assert "cannot be used (Not a directory)" in capsys.readouterr().err

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import config_dict

from experiments import command, config
from experiments.config import cli
from experiments.errors import Stopped, UserError

CONFIG = """
from ml_collections import ConfigDict, config_dict

def get_config(size="small"):
    return ConfigDict({
        "seed": 1,
        "learning_rate": 1.0,
        "dataset": "digits",
        "augment": False,
        "widths": (200, 200),
        "limit": config_dict.placeholder(int),
        "estimator": {"name": "nvil", "decay": 0.9},
        "temperature": {"rate": 0.1},
        "size": size,
        "nothing": None,
    })
"""


@pytest.fixture(autouse=True)
def in_a_directory_with_a_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.py").write_text(CONFIG)


def parse(*arguments):
    return cli.parse(["--config=config.py", "--workdir=runs/a", *arguments])


def failure(capsys, *arguments, main=None):
    """The one line on stderr, without its `error: `, of a command line that must fail."""

    def unreachable(*_):
        pytest.fail("main was called")

    assert cli.run(main or unreachable, list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip()


def failure_of(capsys, *overrides):
    return failure(capsys, "--config=config.py", "--workdir=runs/a", *overrides)


def test_main_gets_config_workdir_and_overrides():
    seen = []

    def main(config, workdir, overrides, _values):
        seen.append((config.seed, config.estimator.name, workdir, overrides))

    arguments = ["--config=config.py", "--workdir=runs/a", "--config.seed=7"]
    assert cli.run(main, arguments) == 0
    assert seen == [(7, "nvil", Path("runs/a"), {"seed": 7})]


def test_the_exit_status_is_what_main_returns():
    arguments = ["--config=config.py", "--workdir=runs/a"]
    assert cli.run(lambda *command: 143, arguments) == 143


@pytest.mark.parametrize(
    "order",
    [
        ["--config.seed=7", "--config=config.py", "--workdir=w", "--config.estimator.name=sf"],
        [
            "--workdir",
            "w",
            "--config.seed",
            "7",
            "--config.estimator.name=sf",
            "--config=config.py",
        ],
        ["-config.seed=7", "-config", "config.py", "--config.estimator.name", "sf", "-workdir=w"],
    ],
)
def test_any_order_and_style(order):
    config, workdir, overrides = cli.parse(order)
    assert (config.seed, config.estimator.name, workdir) == (7, "sf", Path("w"))
    assert overrides == {"seed": 7, "estimator.name": "sf"}


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--config.seed=-3"], "seed", -3),
        (["--config.seed", "-3"], "seed", -3),
        (["--config.seed=1", "--config.seed=2"], "seed", 2),
        (["--config.learning_rate=3"], "learning_rate", 3.0),
        (["--config.learning_rate=3e-4"], "learning_rate", 3e-4),
        (["--config.augment"], "augment", True),
        (["--config.augment=true"], "augment", True),
        (["--config.augment", "True"], "augment", True),
        (["--noconfig.augment"], "augment", False),
        (["--config.widths=(100, 50, 20)"], "widths", (100, 50, 20)),
        (["--config.widths=(100,)", "--config.widths=(50, 20)"], "widths", (50, 20)),
        (["--config.widths=100", "--config.widths=50"], "widths", (50,)),
        (["--config.limit=1", "--config.limit=5"], "limit", 5),
        (["--config.augment", "--noconfig.augment"], "augment", False),
        (["--config.limit=5"], "limit", 5),
        (["--config.limit=5", "--config.limit=None"], "limit", None),
        (["--config.temperature.rate=1"], "temperature.rate", 1.0),
        (["--config.dataset=a=b c"], "dataset", "a=b c"),
    ],
)
def test_values(arguments, key, value):
    config, _, overrides = parse(*arguments)
    assert overrides == {key: value}
    assert type(overrides[key]) is type(value)
    for part in key.split("."):
        config = config[part]
    assert config == value


def test_flags_from_a_file():
    Path("flags.txt").write_text("# a comment\n--config.seed=5\n\n--workdir=mine\n")
    config, workdir, overrides = cli.parse(
        ["--config=config.py", "--flagfile=flags.txt", "--config.learning_rate=2"]
    )
    assert (config.seed, workdir) == (5, Path("mine"))
    assert overrides == {"seed": 5, "learning_rate": 2.0}


def test_a_frozen_config_is_thawed():
    Path("frozen.py").write_text(
        CONFIG.replace("return ConfigDict", "return config_dict.FrozenConfigDict")
    )
    config, _, overrides = cli.parse(["--config=frozen.py", "--workdir=w", "--config.seed=3"])
    assert (config.seed, overrides) == (3, {"seed": 3})


def test_no_overrides():
    config, _, overrides = parse()
    assert overrides == {}
    assert config.limit is None


def test_the_config_is_locked():
    with pytest.raises(AttributeError, match="sede"):
        parse("--config.seed=7").config.sede = 1


def test_a_config_file_may_take_an_argument():
    assert cli.parse(["--config=config.py:large", "--workdir=w"]).config.size == "large"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learing_rate=1", "unknown config key learing_rate (--config.learing_rate=1): did you"),
        ("learing_rate=1", "did you mean learning_rate?"),
        ("rate=1", "unknown config key rate (--config.rate=1): did you mean temperature.rate?"),
        ("lr=1", "did you mean learning_rate?"),
        ("estimator.nam=sf", "did you mean estimator.name"),
        ("seed.x=1", "unknown config key seed.x (--config.seed.x=1): did you mean seed?"),
        ("zzz=1", "unknown config key zzz (--config.zzz=1): --help together with --config lists"),
        ("estimator=sf", "a group of keys: give one of them, as in --config.estimator.name=sf"),
        ("temperature=1", "as in --config.temperature.rate=..."),
        ("seed=abc", "--config.seed=abc: seed takes an integer, such as 1"),
        ("seed=1.5", "--config.seed=1.5: seed takes an integer, such as 1"),
        ("seed", "--config.seed: seed takes an integer, such as 1"),
        ("limit=few", "--config.limit=few: limit takes an integer"),
        ("learning_rate=fast", "learning_rate takes a number, such as 1.0"),
        ("augment=perhaps", "augment takes true or false, such as False"),
        ("widths=wide", "widths takes a tuple, such as (200, 200)"),
        ("nothing=1", "nothing cannot be set here, being a NoneType: change it in the config file"),
    ],
)
def test_wrong_overrides(capsys, override, message):
    assert message in failure_of(capsys, f"--config.{override}")


REQUIRED = """
from ml_collections import ConfigDict, config_dict

def get_config():
    steps = config_dict.required_placeholder(int)
    model = {"name": config_dict.required_placeholder(str)}
    return ConfigDict({"num_steps": steps, "seed": 1, "model": model})
"""


def test_a_required_key_has_to_be_given(capsys):
    Path("required.py").write_text(REQUIRED)
    arguments = ["--config=required.py", "--workdir=w", "--config.num_steps=3"]
    assert failure(capsys, *arguments, "--config.seed=2") == (
        "config.model.name has no value: give --config.model.name=..."
    )
    assert failure(capsys, *arguments[:2]).endswith(
        "have no value: give --config.model.name=... --config.num_steps=..."
    )
    config, _, overrides = cli.parse([*arguments, "--config.model.name=a"])
    assert (config.num_steps, config.model.name) == (3, "a")
    assert overrides == {"num_steps": 3, "model.name": "a"}
    assert cli.run(lambda: None, ["--help", *arguments[:1]]) == 0
    assert "--config.num_steps=... (int, required)" in capsys.readouterr().out


def test_a_required_key_is_named_in_python_too():
    settings = config.base("structured_prediction")
    del settings["num_steps"]
    settings.num_steps = config_dict.required_placeholder(int)
    with pytest.raises(UserError, match=r"config\.num_steps has no value"):
        config.read(settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config=FILE.py is missing"),
        (["--config=config.py"], "--workdir=DIR is missing"),
        (["--config=config.py", "--workdir="], "--workdir=DIR is missing"),
        (["--config=config.py", "--workdir"], "Missing value for flag --workdir"),
        (["--config=config.py", "--workdir=config.py"], "--workdir=config.py is a file"),
        (["--config=confg.py", "--workdir=w"], "confg.py does not exist: did you mean config.py?"),
        (["--config=config.py", "--wrkdir=w"], "unknown flag --wrkdir: did you mean --workdir?"),
        (["--config=config.py", "--qqq"], "unknown flag --qqq: try --help"),
        (
            ["--config=config.py", "--workdir=w", "w2"],
            "unexpected argument 'w2': a flag begins with",
        ),
        (
            ["--config=config.py", "--workdir=w", "config.seed=1"],
            "unexpected argument 'config.seed=1': did you mean --config.seed=1?",
        ),
        (["--config=config.py", "--workdir=w", "seed=1"], "did you mean --config.seed=1?"),
        (["--config=config.py", "workdir=w"], "did you mean --workdir=w?"),
        (["--config=config.py", "--seed=1"], "try --help, or --config.seed=VALUE for a key of"),
        (["--config=config.py", "--workdir=w\0x"], "a path has no NUL character"),
        (["--config=config.py", "--workdir=w\ud800"], "give a path that is valid UTF-8"),
        (["--config=config.py", "--workdir=~nosuchuser/w"], "there is no user 'nosuchuser'"),
        (["--config=~nosuchuser/c.py", "--workdir=w"], "there is no user 'nosuchuser'"),
        (["--config=config.py\0", "--workdir=w"], "a path has no NUL character"),
        (["--config=config\ud800.py", "--workdir=w"], "give a path that is valid UTF-8"),
        (["--config=.", "--workdir=w"], "is a directory: name a file, such as config.py"),
        (["--config=config.py", "--workdir=" + "w" * 300], "File name too long"),
        (["--flagfile=none.txt", "--workdir=w"], "--flagfile: ERROR:: Unable to open flagfile"),
        (["--flagfile=.", "--workdir=w"], "--flagfile: ERROR:: Unable to open flagfile"),
        (["--flagfile"], "--flagfile: --flagfile with no argument"),
        (["--flagfile=no\0ne", "--workdir=w"], "--flagfile: embedded null byte"),
    ],
)
def test_wrong_flags(capsys, arguments, message):
    assert message in failure(capsys, *arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "broken.py:1: "),
        ("import no_such_module", "broken.py:1: ModuleNotFoundError: No module named"),
        ("def get_config():\n    return 1 / 0", "broken.py:2: ZeroDivisionError: division by zero"),
        ("import json\n\ndef get_config():\n    json.loads('{')", "broken.py:4: JSONDecodeError"),
        ("x = 1", "broken.py has no function get_config()"),
        ("import sys\nsys.exit(0)", "broken.py calls sys.exit()"),
        (
            "def get_config():\n    raise SystemExit(0)",
            "broken.py calls sys.exit(): it must return",
        ),
        ("def get_config():\n    get_config()", "RecursionError"),
        (
            "def get_config(size):\n    return {}",
            "get_config() of broken.py takes an argument: give --config=broken.py:TEXT",
        ),
        (
            "def get_config(a, b):\n    return {}",
            "broken.py cannot be called: it must take at most",
        ),
        ("get_config = 3", "broken.py has no function get_config()"),
        ("def get_config():\n    return None", "returns a NoneType"),
        ("\0", "broken.py"),
        ("def get_config():\n    return {}", "returns a dict: it must return an ml_collections"),
        (
            "from experiments import errors\ndef get_config():\n    raise errors.UserError('so')",
            "so",
        ),
    ],
)
def test_broken_config_files(capsys, text, message):
    Path("broken.py").write_text(text)
    assert message in failure(capsys, "--config=broken.py", "--workdir=w")


def test_a_config_is_looked_for_among_the_projects_own(capsys, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quick.py").touch()
    said = failure(capsys, "--config=quick.py", "--workdir=w")
    assert "config file quick.py does not exist: did you mean configs/quick.py?" in said


def test_a_config_that_takes_no_argument(capsys):
    Path("plain.py").write_text("def get_config():\n    return {}\ndef get_sweep(size): ...\n")
    message = failure(capsys, "--config=plain.py:large", "--workdir=w")
    wrong = "get_config() of plain.py takes no argument, and 'large' is given"
    assert message == f"{wrong}: give --config=plain.py"
    with pytest.raises(UserError, match=r"get_sweep\(\) of plain\.py cannot be called: it must"):
        config.load_sweep("plain.py")


def test_a_config_must_be_a_python_file(capsys):
    Path("config.txt").write_text(CONFIG)
    message = failure(capsys, "--config=config.txt", "--workdir=w")
    assert "must be a Python file" in message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("two\n  lines"), "two lines"),
        (PermissionError(13, "Permission denied", "runs/a"), "runs/a: Permission denied"),
        (OSError("odd"), "odd"),
        (BrokenPipeError(32, "Broken pipe"), "a file that the system does not name: Broken pipe"),
    ],
)
def test_errors_of_main_are_one_line(capsys, error, message):
    def main(config, workdir, overrides, _values):
        raise error

    assert failure(capsys, "--config=config.py", "--workdir=w", main=main) == message


def test_debug_shows_the_traceback(capsys):
    def main(config, workdir, overrides, _values):
        raise UserError("fix this")

    assert cli.run(main, ["--config=config.py", "--workdir=w", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("error: fix this\n")


def test_debug_in_a_file_of_flags_counts(capsys):
    def main(*_):
        raise UserError("fix this")

    Path("flags.txt").write_text("--debug\n")
    arguments = ["--flagfile=flags.txt"]
    assert cli.run(main, [*arguments, "--config=config.py", "--workdir=w"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert command.launch(main, lambda _: None, arguments) == 2
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_no_traceback(capsys):
    def main(config, workdir, overrides, _values):
        raise KeyboardInterrupt

    assert cli.run(main, ["--config=config.py", "--workdir=w"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_run_that_was_stopped_is_no_traceback(capsys):
    def main(config, workdir, overrides, _values):
        raise Stopped(10, 20, 143)

    assert cli.run(main, ["--config=config.py", "--workdir=w"]) == 143
    said = "stopped at step 10 of 20: rerun the same command to resume\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_stdout_cannot_encode_is_escaped(monkeypatch, encoding):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stdout)
    assert command.guarded(lambda: print("a → b \ud800")) == 0
    arrow = "→" if encoding == "utf-8" else r"\u2192"
    assert stdout.buffer.getvalue().decode(encoding) == f"a {arrow} b \\ud800\n"


PRINTS = """
import sys
from experiments import command
sys.exit(command.guarded(lambda: print("a" * int(sys.argv[1]))))
"""


@pytest.mark.parametrize("flags", [[], ["-u"]])
@pytest.mark.parametrize("length", [10, 1_000_000])
def test_a_pipe_that_nobody_reads_ends_the_command_quietly(length, flags):
    """Found at the end, or while printing."""
    read, write = os.pipe()
    os.close(read)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, *flags, "-c", PRINTS, str(length)],
        env=os.environ | {"PYTHONPATH": str(root)},
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_bug_is_not_hidden():
    def main(config, workdir, overrides, _values):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main, ["--config=config.py", "--workdir=w"])


def test_help(capsys):
    def main(config, workdir, overrides, _values):
        """Trains a model."""

    assert cli.run(main, ["--help"]) == 0
    assert cli.run(main, ["--help=true"]) == 0
    out = capsys.readouterr().out
    assert "Trains a model." in out
    assert "--workdir" in out
    assert cli.run(main, ["-h", "--config=config.py"]) == 0
    out = capsys.readouterr().out
    assert "--config.learning_rate=1.0 (float)" in out
    assert "--config.limit=None (int)" in out
    assert "did you mean --workdir" in failure(capsys, "--help", "--wrkdir=w")


def test_help_says_what_a_key_may_be_and_what_reads_it(capsys):
    file = "configs/semi_supervised.py"
    Path(file).parent.mkdir()
    Path(file).write_text(
        "from experiments.config import base\ndef get_config():\n    return base('semi_supervised')"
    )
    assert cli.run(lambda *_: 0, ["--help", f"--config={file}"]) == 0
    out = capsys.readouterr().out
    assert "--config.latent=bernoulli (str; one of bernoulli, categorical)\n" in out
    assert "--config.labels=true (str; one of true, random)\n" in out
    assert "--config.temperature.share=1.0 (float; for linear, cosine)\n" in out
    assert "--config.estimator.residual_hidden=None (int; for relax)\n" in out
    assert "--config.seed=0 (int)\n" in out


def test_a_key_of_another_task_is_told_so(capsys):
    Path("config.py").write_text(
        "from experiments.config import base\ndef get_config():\n    return base('generative')"
    )
    said = failure(capsys, "--config=config.py", "--workdir=w", "--config.alpha=1")
    assert "it is a key of task semi_supervised, and this config is of generative" in said
    for given, fix in (("0.5", "temperature.value=0.5"), ("linear", "temperature.name=linear")):
        flags = ("--config=config.py", "--workdir=w", f"--config.temperature={given}")
        assert f"as in --config.{fix}" in failure(capsys, *flags)


SCRIPT = """
import logging, sys
from experiments.config import cli
def main(config, workdir, overrides, _values):
    logging.getLogger("experiments.x").warning("careful")
    logging.getLogger("absl").info("chatter")
    return overrides["seed"]
sys.exit(cli.run(main))
"""


def test_as_a_process():
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "--config.seed=3", "--config=config.py", "--workdir=w"],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "warning: careful\n")


def test_logging_is_left_alone_where_it_is_set_up():
    before = list(logging.getLogger().handlers)
    assert cli.run(lambda *command: 0, ["--config=config.py", "--workdir=w"]) == 0
    assert logging.getLogger().handlers == before


def test_an_alias_of_an_estimator_is_recorded_under_its_name():
    parsed = config.base("structured_prediction")
    parsed.estimator.name = "reinforce"
    assert config.read(parsed).flat()["estimator.name"] == "sf"


@pytest.mark.parametrize(
    ("key", "value"),
    [("decoder", "(3,)"), ("validation_num_samples", "3"), ("estimator.centering", "False")],
)
def test_a_key_that_may_be_unset_takes_none(key, value):
    made = config.base("generative")
    made.layers = (4,)
    for text in (value, "None"):
        overridden = config.apply(made, [config.Token(key, f"--config.{key}={text}")])
    assert overridden == {key: None}
    assert config.read(made).flat()[key] is None
    with pytest.raises(UserError, match=r"decoder takes a tuple or None$"):
        config.apply(config.base("generative"), [config.Token("decoder", "--config.decoder=(1,")])
    with pytest.raises(UserError, match=r"num_steps takes an integer, such as"):
        config.apply(made, [config.Token("num_steps", "--config.num_steps=None")])

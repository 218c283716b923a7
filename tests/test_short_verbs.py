import argparse
from pathlib import Path

import pytest

from mtpano_zoo.cli import build_parser, main
from mtpano_zoo.errors import InputError
from mtpano_zoo.image_files import search_images
from mtpano_zoo.limits import max_pixels
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.short_verbs import ShortVerbParser, file_to_write, hyphenated, number_of_processes
from mtpano_zoo.verbs.generate import edit_parser, generate_parser, precompute_parser, refine_parser


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parser and those of its verbs, and of theirs."""
    verbs = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(below for choices in verbs for verb in choices.values() for below in parsers(verb))]


def test_options_of_all_short_verbs_are_spelt_with_hyphens_and_understood_with_underscores() -> None:
    options = {option for parser in parsers(build_parser()) for a in parser._actions for option in a.option_strings}
    assert {"--batch-size", "--skip-list", "--traceback"} <= options
    assert not [option for option in options if "_" in option]
    parsed = build_parser().parse_args(["run", "--batch_size=3", "--mask_sky", "--", "a.png", "--my_file.png"])
    assert (parsed.batch_size, parsed.mask_sky, parsed.sources) == (3, True, ["a.png", "--my_file.png"])


def test_what_has_a_dot_or_follows_two_dashes_keeps_its_underscores() -> None:
    given = ["--max_height", "5", "--data.init_args.root=a_b", "--print_config", "a_b", "--", "--c_d"]
    assert hyphenated(given, kept=("print_config",)) == ["--max-height", *given[1:]]
    assert hyphenated(["--a_b=c_d"]) == ["--a-b=c_d"]
    assert hyphenated(["--min-score=0.5", "--any-labeler"], kept=("min_score", "any-labeler")) == [
        "--min_score=0.5",
        "--any-labeler",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["rnu"],
            "There is no verb 'rnu'; did you mean run? `mtpano --help` explains fit, validate, test, ",
        ),
        (["data", "plto"], "There is no verb 'plto'; did you mean plot? `mtpano data --help`"),
        (
            ["rooms", "--out", "x", "--cuont", "3"],
            "There is no option --cuont; did you mean --count? `mtpano rooms --h",
        ),
        (["rooms", "--out", "x", "--max_height=3"], "There is no option --max-height; did you mean --height?"),
        (["rooms", "--out", "x", "--zzz"], "There is no option --zzz. `mtpano rooms --help` lists them all."),
        (["rooms", "--out", "x", "--split", "trian"], "--split cannot be 'trian'; did you mean train?"),
        (["rooms", "--out", "x", "--count", "many"], "--count: invalid int value: 'many'; see `mtpano rooms --help`."),
        (["rooms"], "required: --out; see `mtpano rooms --help`."),
        (
            ["models", "a", "b"],
            "The argument 'b' is one too many, or an option separates it from the others; see `mtpano models",
        ),
        (["data", "prepare", "matterport", "--root", "a", "--out", "b"], "name cannot be 'matterport'; did you mean"),
        (["data", "verify", "--data", "rooms", "--workers", "-1"], "a number of processes is 0 or more, not -1"),
        (
            ["data", "verify", "--data", "rooms", "--json", "none/x.json"],
            "there is no folder none to write x.json into",
        ),
        (["export", "tiny", "--format", "onnx", "--out", "/"], "/ is a folder, not a file"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_nearest_right_name(arguments: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        build_parser().parse_args(arguments)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_every_short_verb_has_the_option_traceback_in_its_help() -> None:
    helps = [parser for parser in parsers(build_parser()) if isinstance(parser, ShortVerbParser)]
    assert len(helps) > 10
    assert all("--traceback" in parser.format_help() for parser in helps)


def test_help_texts_follow_the_defaults_of_their_options() -> None:
    generating = (generate_parser, edit_parser, refine_parser, precompute_parser)
    followed = 0
    for parser in [*parsers(build_parser()), *(build() for build in generating)]:
        known = [action for action in parser._actions if isinstance(action.default, str | int | float | Path)]
        stated = [action for action in known if action.help and "(default " in action.help]
        for action in stated:
            action.default = 987
        assert " ".join(parser.format_help().split()).count("(default 987") == len(stated), parser.prog
        followed += len(stated)
    assert followed > 20


@pytest.mark.parametrize("verb", [["run"], ["view"], ["convert", "fisheye"]], ids=" ".join)
def test_the_help_names_the_limit_that_holds(
    verb: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MTPANO_MAX_PIXELS", raising=False)
    with pytest.raises(SystemExit):
        main([*verb, "--help"])
    assert f"(default MTPANO_MAX_PIXELS, or else {max_pixels()})" in " ".join(capsys.readouterr().out.split())


def test_files_and_processes(tmp_path: Path) -> None:
    assert file_to_write(str(tmp_path / "new.json")) == tmp_path / "new.json"
    assert number_of_processes("0") == 0


def test_the_home_folder_is_found_where_the_shell_does_not_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert file_to_write("~/new.json") == home / "new.json"
    assert str(user_path("~no_such_user/x")) == "~no_such_user/x"
    assert main(["rooms", "--out=~/rooms", "--count", "1", "--height", "32"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    (image,) = search_images(["~/rooms/images/**/*.png"], tmp_path / "out").images
    assert image.is_relative_to(home)
    (home / "list.txt").write_text("~/rooms\n")
    assert image in search_images(["@~/list.txt"], tmp_path / "out").images

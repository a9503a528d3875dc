from pathlib import Path

import pytest

from vitreous.engine.project import create_project, open_project, read_decisions, record_decision
from vitreous.errors import InputFileError, ProjectError, SettingError
from vitreous.model.documents import Facts


def make_files(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "a.tif").write_bytes(b"x")
    return folder


def test_facts_come_back_and_globs_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(tmp_path / "data" / "session 1")
    monkeypatch.chdir(tmp_path)
    facts = Facts(movies="data/*/*.tif", gain="data/session 1/a.tif", pixel_size_angstrom=0.83, title='a "quoted" µm')
    create_project(Path("projects/one"), facts)
    opened = open_project(tmp_path / "projects" / "one")
    assert opened.facts.movies == "../../data/*/*.tif"
    assert opened.facts.gain == "../../data/session 1/a.tif"
    assert opened.facts.model_copy(update={"movies": facts.movies, "gain": facts.gain}) == facts
    assert [step.stage for step in opened.recipe.steps][:5] == ["ingest", "motion", "ctf", "curate", "pick"]
    assert opened.recipe.steps[4].params == {"method": "blob"}


def test_project_moves_with_its_data(tmp_path: Path) -> None:
    make_files(tmp_path / "a" / "data")
    create_project(tmp_path / "a" / "project", Facts(movies=str(tmp_path / "a" / "data" / "*.tif")))
    (tmp_path / "a").rename(tmp_path / "b")
    opened = open_project(tmp_path / "b" / "project")
    assert opened.facts.movies is not None
    assert len(list(opened.root.glob(opened.facts.movies))) == 1


def test_links_do_not_mislead_relative_paths(tmp_path: Path) -> None:
    make_files(tmp_path / "deep" / "er" / "data")
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    opened = create_project(tmp_path / "link" / "project", Facts(movies=str(tmp_path / "link" / "data" / "*.tif")))
    assert opened.facts.movies == "../data/*.tif"


def test_empty_glob_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputFileError, match=r"nothing/\*\.tif: found no file of that name; expected at least one.*--movies"
    ):
        create_project(tmp_path / "p", Facts(movies=str(tmp_path / "nothing" / "*.tif")))
    assert not (tmp_path / "p").exists()


def test_missing_gain_is_named(tmp_path: Path) -> None:
    data = make_files(tmp_path / "data")
    with pytest.raises(InputFileError, match=r"gain\.mrc: found no file.*--gain"):
        create_project(tmp_path / "p", Facts(movies=str(data / "*.tif"), gain=str(data / "gain.mrc")))


def test_existing_project_is_kept(tmp_path: Path) -> None:
    data = make_files(tmp_path / "data")
    create_project(tmp_path / "p", Facts(movies=str(data / "*.tif"), title="first"))
    with pytest.raises(ProjectError, match="found a project already"):
        create_project(tmp_path / "p", Facts(movies=str(data / "*.tif"), title="second"))
    assert open_project(tmp_path / "p").facts.title == "first"


def test_folder_without_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"found no project\.toml"):
        open_project(tmp_path)


@pytest.mark.parametrize("text", ["movies = [", 'movies = "x"\nvoltage_kv = "high"', "nonsense = 1", "movies = 3"])
def test_broken_facts_are_named(tmp_path: Path, text: str) -> None:
    data = make_files(tmp_path / "data")
    create_project(tmp_path / "p", Facts(movies=str(data / "*.tif")))
    (tmp_path / "p" / "project.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputFileError, match=r"project\.toml: found .*expected the facts"):
        open_project(tmp_path / "p")


def test_decisions_come_back_in_order(tmp_path: Path) -> None:
    data = make_files(tmp_path / "data")
    project = create_project(tmp_path / "p", Facts(movies=str(data / "*.tif")))
    (project.runs / "006-classify2d").mkdir(parents=True)
    made = [
        record_decision(project, who=who, run="006-classify2d", kind="class", subject=subject, verdict="reject")
        for who, subject in (("ada", "3"), ("bob", "3"), ("ada", "4"))
    ]
    assert read_decisions(project) == tuple(made)
    with pytest.raises(SettingError, match="there is no such run"):
        record_decision(project, who="ada", run="9-x", kind="class", subject="1", verdict="accept")


def test_broken_decision_is_not_dropped(tmp_path: Path) -> None:
    data = make_files(tmp_path / "data")
    project = create_project(tmp_path / "p", Facts(movies=str(data / "*.tif")))
    (project.root / "decisions").mkdir()
    (project.root / "decisions" / "x.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputFileError, match=r"x\.json"):
        read_decisions(project)

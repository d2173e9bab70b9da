"""Files beside the input of a run: read by their paths where that is allowed, and nowhere else."""

from pathlib import Path

import pytest

from backfill.media import LocalFiles, MediaLibrary, MediaRefused
from tests.support.media import configure, data_url, list_files, picture, png

CONFIG = configure()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "input"
    (made / "pictures").mkdir(parents=True)
    (made / "pictures" / "a b.png").write_bytes(png(4, 5))
    (made / "text.png").write_text("no picture")
    return made


async def test_a_path_counts_from_the_folder_and_nothing_is_copied(folder: Path, tmp_path: Path) -> None:
    library = MediaLibrary(tmp_path / "media", CONFIG, local=LocalFiles(folder, CONFIG))
    media = library.open("batch_1", "owner")
    for source in ("pictures/a b.png", str(folder / "pictures" / "a b.png")):
        found = await media.get(picture(source))
        assert found.path.samefile(folder / "pictures" / "a b.png")
        assert (found.media_type, found.width, found.height, found.filename) == ("image/png", 4, 5, "a b.png")
        with media.holding([picture(source)]) as files:
            assert files == (found,)
    # What is no path is brought as ever.
    assert (await media.get(picture(data_url(png())))).width == 2
    await media.close()
    await library.close()
    assert len(list_files(tmp_path / "media")) == 1


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("gone.png", "There is no file .*gone.png"),
        ("pictures", "There is no file"),
        ("text.png", "of no known form"),
        ("a\0b", "cannot be read|There is no file"),
        ("file:///etc/passwd", "file: is not taken"),
    ],
)
async def test_what_is_no_file_there_is_told(folder: Path, tmp_path: Path, source: str, words: str) -> None:
    library = MediaLibrary(tmp_path / "media", CONFIG, local=LocalFiles(folder, CONFIG))
    media = library.open("batch_1", "owner")
    with pytest.raises(MediaRefused, match=words):
        await media.get(picture(source))
    await media.close()
    await library.close()


async def test_a_server_reads_no_path(folder: Path, tmp_path: Path) -> None:
    library = MediaLibrary(tmp_path / "media", CONFIG)
    media = library.open("batch_1", "owner")
    for source in ("pictures/a b.png", str(folder / "pictures" / "a b.png"), "../../etc/passwd"):
        with pytest.raises(MediaRefused, match="neither a link"):
            await media.get(picture(source))
    await media.close()
    await library.close()

"""Text in other encodings than UTF-8: named where it is met, read where it was told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.files import open_file, read_records
from xtune.errors import DataError, UsageError


@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r")).map("x".__add__), min_size=1),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gb18030"]),
    st.integers(1, 5),
)
def test_lines_are_read_in_the_encoding_told(tmp_path_factory, lines, encoding, size):
    path = tmp_path_factory.getbasetemp() / "encoded.txt"
    path.write_bytes("\n".join(lines).encode(encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_file, "_CHUNK", size)  # characters are cut in two
        read = [record.row["text"] for record in read_records(path, encoding=encoding)]
    assert read == lines


@pytest.mark.parametrize(
    ("content", "byte", "line", "guess"),
    [
        ('{"a": "hello"}\n{"a": "你好，世界"}\n'.encode("gb18030"), 22, 2, "gb18030"),
        ('[\n{"a": "这是一个数据集"}]'.encode("gb18030"), 9, 2, "gb18030"),
        (b"[" + b"\n" * 5 + b"{},\n" * 20 + b'"\xe9"]', 87, 26, "cp1252"),
        ('{"a": "é\néé déjà vu"}'.encode("cp1252"), 7, 1, "cp1252"),
        ('{"a": "你好"}'.encode("utf-16"), 0, 1, "utf-16"),
        ('{"a": "你好"}'.encode("utf-16-le"), 1, 1, "utf-16-le"),
        ('{"a": "你好"}'.encode("utf-16-be"), 0, 1, "utf-16-be"),
    ],
)
@pytest.mark.parametrize("size", [3, 1 << 18])
def test_another_encoding_is_named_where_it_is_met(tmp_path, monkeypatch, content, byte, line, guess, size):
    monkeypatch.setattr(open_file, "_CHUNK", size)
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match=rf"byte {byte}, line {line}\)") as caught:
        list(read_records(tmp_path / "file"))
    assert caught.value.where.endswith(f"file:{line}")
    if size > 3 or guess.startswith("utf-16"):  # a guess needs a few characters around the place
        assert f"looks like {guess.upper()}" in caught.value.what
        assert f'encoding = "{guess}"' in caught.value.fix
        if b"\xe9\n" not in content:
            assert list(read_records(tmp_path / "file", encoding=guess))


def test_an_encoding_that_is_wrong_or_unknown(tmp_path):
    (tmp_path / "file").write_bytes('{"a": "你"}\n{"a": "é"}'.encode())
    with pytest.raises(DataError, match=r"This is not ascii \(byte 7, line 1\)"):
        list(read_records(tmp_path / "file", encoding="ascii"))
    for encoding in ("utf-9", "hex", "rot13", "", "a\0b"):
        with pytest.raises(UsageError, match="There is no encoding"):
            list(read_records(tmp_path / "file", encoding=encoding))


def test_a_file_cut_off_inside_a_character(tmp_path):
    (tmp_path / "file").write_bytes('{"a": "你"}\n{"b": "你'.encode()[:-1])
    with pytest.raises(DataError, match=r"ends in the middle of a character \(byte 20, line 2\)"):
        list(read_records(tmp_path / "file"))

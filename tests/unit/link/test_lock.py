"""A card has one owner; the next can tell who; a killed owner leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from exosuit.errors import CardBusy, PermissionNeeded
from exosuit.link.lock import CardLock, Owner, owner_of

HOLD = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from exosuit.link.lock import CardLock
    lock = CardLock.acquire("pci:0000:05:00.0", Path(sys.argv[1]))
    print("held", flush=True)
    time.sleep(60)
""")


def test_the_owner_is_named_and_its_death_frees_the_card(tmp_path: Path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(CardBusy) as caught:
            CardLock.acquire("pci:0000:05:00.0", tmp_path)
        assert caught.value.fields["owner"].pid == holder.pid
        assert str(holder.pid) in caught.value.what
        owner = owner_of("pci:0000:05:00.0", tmp_path)
        assert owner is not None
        assert owner.pid == holder.pid
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert owner_of("pci:0000:05:00.0", tmp_path) is None
    with CardLock.acquire("pci:0000:05:00.0", tmp_path):
        pass


def test_other_cards_are_not_concerned(tmp_path: Path):
    with CardLock.acquire("a", tmp_path), CardLock.acquire("b", tmp_path):
        owner = owner_of("a", tmp_path)
        assert owner is not None
        assert owner.pid == os.getpid()


def test_closing_twice_is_closing(tmp_path: Path):
    lock = CardLock.acquire("a", tmp_path)
    lock.close()
    lock.close()
    assert owner_of("a", tmp_path) is None
    CardLock.acquire("a", tmp_path).close()


def test_a_name_cannot_leave_the_folder(tmp_path: Path):
    with CardLock.acquire("tinygpu:../../etc/passwd", tmp_path):
        assert [path.parent for path in tmp_path.iterdir()] == [tmp_path]


def test_damaged_text_in_a_held_lock_is_survived(tmp_path: Path):
    with CardLock.acquire("a", tmp_path):
        (tmp_path / "a.lock").write_text(json.dumps(["no", "owner"]))
        with pytest.raises(CardBusy, match="another process"):
            CardLock.acquire("a", tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionNeeded):
        CardLock.acquire("a", tmp_path / "file" / "locks")


def test_an_owner_is_described_with_its_age():
    assert Owner(7, "exosuit serve", 100.0).describe(175.0) == (
        "process 7 (exosuit serve), for 1 min 15 s"
    )

"""What a record tells nobody."""

from __future__ import annotations

import json

from moondream_station.core.capabilities.probes import adapters
from moondream_station.core.machine.record import Identity, MachineRecord, local_identity, redact
from support.machines import LINUX, RTX_4090, answer, capabilities_of, merged, nvidia_linux, windows
from support.posix import account

ADA = Identity(homes=("/home/lovelace",), users=("lovelace",), hosts=("analytical", "analytical.example.org"))


def test_nothing_private_is_left() -> None:
    """Home folders, user and host names, GPU identifiers and serial numbers are gone, wherever they stood."""
    record = MachineRecord(
        platform=LINUX,
        env={"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,MIG-GPU-8932f937-d72c/1/0"},
        commands=(
            answer(
                "nvidia-smi",
                stdout="|    0   N/A  N/A  1720  C  /home/lovelace/bin/python    173MiB |\nSerial: 0324X",
                stderr="lovelace@analytical: /home/grace/x failed on analytical",
            ),
        ),
        files={
            f"{adapters.NODES}/1/properties": "simd_count 96\nunique_id 1801979520617338022\nhive_id 99\n"
        },
        unreadable={"/dev/kfd": "not for lovelace"},
    )
    text = json.dumps(redact(record, ADA).to_json())
    for secret in (
        "lovelace",
        "analytical",
        "grace",
        "8932f937",
        "0324X",
        "1801979520617338022",
        "hive_id 99",
    ):
        assert secret not in text
    assert "simd_count 96" in text


def test_what_the_probes_read_stays() -> None:
    """A redacted record is detected exactly as the whole one."""
    whole = merged(nvidia_linux(RTX_4090), windows(RTX_4090))
    assert capabilities_of(redact(whole, ADA)).gpus == capabilities_of(whole).gpus
    assert capabilities_of(redact(windows(RTX_4090), ADA)).gpus == capabilities_of(windows(RTX_4090)).gpus


def test_a_device_of_windows_keeps_its_kind_only() -> None:
    """The part of a PNPDeviceID that tells one card from its twin is left out."""
    stdout = json.dumps({"PNPDeviceID": "PCI\\VEN_10DE&DEV_2684&SUBSYS_1&REV_A1\\4&2283F625&0&0019"})
    record = MachineRecord(platform=LINUX, commands=(answer("powershell", stdout=stdout),))
    (result,) = redact(record, ADA).commands
    assert json.loads(result.stdout)["PNPDeviceID"] == "PCI\\VEN_10DE&DEV_2684&SUBSYS_1&REV_A1"


def test_a_name_that_is_a_number_takes_no_version_away() -> None:
    """A user who is called as a driver is numbered keeps the driver readable."""
    record = nvidia_linux(driver="550.54.14")
    assert redact(record, Identity(users=("550", "NVIDIA"), hosts=("12.4",))) == record


def test_a_name_inside_another_word_stays() -> None:
    """A user called `on` does not change `No`, `none` or `only`."""
    record = MachineRecord(platform=LINUX, files={"/a": "none only on a-on"})
    assert redact(record, Identity(users=("on",))).files["/a"] == "none only USER a-on"


def test_a_users_folder_of_windows_may_hold_spaces() -> None:
    """Both names go; what stands behind the folder stays."""
    shown = "|    0   N/A  N/A   2164    C+G   C:\\Users\\Ada King\\app.exe   N/A |"
    record = MachineRecord(platform=LINUX, files={"/a": f"{shown}\nhttps://ada:secret@mirror.example/whl"})
    text = redact(record, Identity()).files["/a"]
    assert "C:\\Users\\USER\\app.exe   N/A |" in text
    assert "https://USER@mirror.example/whl" in text
    assert "King" not in text


def test_this_computers_identity_comes_from_its_variables_and_its_list_of_users() -> None:
    """Names and folders are those of the environment and the account, the host's name is whole and short."""
    identity = local_identity({"HOME": "/home/ada", "USER": "ada", "LOGNAME": "ada", "HOSTNAME": "engine"})
    assert "/home/ada" in identity.homes
    assert "ada" in identity.users
    assert "engine" in identity.hosts
    name, _ = account()
    assert name in local_identity({}).users

"""Files that would harm the process that reads them are found in another one."""

from __future__ import annotations

import base64
import subprocess
import sys
import zlib
from pathlib import Path

import netCDF4
import numpy as np
import pytest

import gflow
from gflow import inspection
from gflow.data import read_table
from gflow.errors import DataError, StoreError

FILES = {
    "external link": (
        "c-rgqaB<`1lHy|K;9!7(|4^U+6*7Q|3rqgD^!IQHVq&OZ5<*r816)iDj0_BHJPbgJv2rt18=EMQ&*8wB$j87"
        "?oSIyeTB4U>%AjA&z@X1SDmZ2Nq#Nu6paqN~3=B++jEpQ$IT+0>!oVn~V9x+?y#s>@H-pK4W(EdUpzD~qIDj"
        "r^W`s&ID8LNfz%b+h)A@aJ45MHajDk@x3Pu6t;DbGs;Q*mH8~`*gEyV"
    ),
    "raw data": (
        "c-rgqaB<`1lHy|K;9!7(|4^U+6*7Q|3rqgD^!IQHVq&OZ5<*r816)iDj0_BHJPbgJv2rt18<d~8pAjlx!9X@"
        "RKT&5M*a<)b8ATWvm>3xuS)g(-npuQ_QBc920pfZG1`}=ulmE;N46H!cF>`SMUCzu1m1IzW8N7jE$N{GF`{X"
        "DK3w8~lP6lx7Fq~$B=-@!J1r|b(aDyiem~_kF2#Z4w`(}H%ItGB)5>PQ%a(m5$s<t>axhS<nFDWyRVHAvlQ7"
        "{Td0R()ohcX<Xg}ws->jyvY"
    ),
    "virtual": (
        "c-rgqaB<`1lHy|K;9!7(|4^VH0pS}!#h+x~WB2!P31VWXU=l)B2m@S942%p6Y&;A=im`GtR2!6^xStU!V8K8"
        "(I6qNm9@q&$0~tja7?>Ct8CjrmFq&C}fl*Mwo&n+^2L=;v29y8H3=FJ5*D-T(0A0?^2$f_|fEm1jVaNfd^ZV"
        "q$VWGGsg(({ulMyz2z_8IqB!Lh6IrxCOm=&Nx;HX<Mbi!ui{Ue49qhJ(_f>AIEhy@?)p$rEI#o^%Y?C%3E`~"
        "{FI0w91XgbNg>CKsia=w+BP6f-a*iGyn@P|X7pV`7BrVFcDl?~S=j;Yt?pkB0sz7zLwX6pVsVFbYP&C>RB!U"
        "=)mkQ7}*d0J6kEs{"
    ),
    "half floats": (
        "c-rgqaB<`1lHy|K;9!7(|4^U?6*7Q|ze?G<*5AV=h>4+sNeEdX3~(_qFfuT(@h|`>#>&l5ZBTyVenzN(1q0d"
        "O{6w93U?%_#WE5dwU}9usWP!@TXl4-xMnMI828in&7)-bsO#U-7Ft7q$$IQh6bU8C4RFXjfX7C1vAqSYw?~_"
        "9h3uagtpo9fK0~44hz`(`Iz{Ssi8WsxBuwWa)VWGe15f{TK7zLwX6pR9L!3TRN!vR8ZI560NAOKaDFsl"
    ),
    "groups in a circle": (
        "c-rgqaB<`1lHy|K;9!7(|4^U+6*7Q|3rqgD^!IQHVq&OZ5<*r816)iDj0_BHJPbgJv2rt18<d~EpAo_rV`X4"
        "rU;?r98At{5c2sA9od7hDQG|hkiII_!1u6%lnMD{F1r_WWAg*^{FyUq}`OnP2zzTF7GZzQY<;;vwNd^U&!5b"
        "Kc9AG-XPmcKL$biKng9r7TFvsPyF~cYr1*2dTjDjH#KG;JU4iJjN0RZxjKGg"
    ),
    "far too large": (
        "c-rgqaB<`1lHy|K;9!7(|4^U+6*7Q|3rqgD^!IQHVq&OZ5<*r816)iDj0_BHJPbgJv2rt18<d~8pAjlx!9X@"
        "RKT&5M*a<)b8ATWvm>3xuS)g(-npuQ_QBc920pfZG1`}=ulmE;N46H!cF>`SMUCzu1m1IzW8N7jE$N{GF`{d"
        "BWf<a*El@}mMD2+2L_<&)djfnCO_8g+X5M*LtVs>!i2Z}Ru!6KDm;SdOm%Myn;7)HS;7zLwX6p#x(*h3i(5Q"
        "@VA0Igd-`v"
    ),
    "secret.h5": (
        "c-rgqaB<`1lHy|K;9!7(|4^U+6*7Q|3rqgD^!IQHVq&OZ5<*r816)iDj0_BHJPbgJv3N7gJP!t{frCC5^}$X"
        "6TEHm6z`(@F$jAbfgVD?)42*&b_6!i$J204VGno8mW?*0ix{jHP1L$&QMyMo%0?gnI3_}huo!=+NFbYP&C>R"
        "B!U=&aeKG;JU4iJjN0RSpOD69"
    ),
}
"""Small HDF5 files, deflated: each has a variable y and a hostile one, a, or hostile groups."""

TOLD = {
    "external link": "holds links to other files, which are not followed",
    "raw data": "cannot be read as netCDF4",
    "virtual": "holds links to other files, which are not followed",
    "half floats": "the netCDF library crashes on it",
    "groups in a circle": "the netCDF library does not come to an end with it",
    "far too large": "declares 8,000 GB of data; at most",
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "PATIENCE", 2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hostile files, and those that some of them lead to."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        path = tmp_path / (name if "." in name else f"{name}.nc")
        path.write_bytes(zlib.decompress(base64.b85decode(text)))
    (tmp_path / "secret.bin").write_bytes(np.arange(4.0).tobytes())
    return tmp_path


@pytest.mark.parametrize("name", TOLD)
def test_a_hostile_file_is_refused_in_a_sentence(folder: Path, name: str) -> None:
    with pytest.raises(StoreError, match=rf"{name}\.nc .*{TOLD[name]}"):
        gflow.open(folder / f"{name}.nc")
    with pytest.raises(DataError, match=rf"{name}\.nc .*{TOLD[name]}"):
        read_table(folder / f"{name}.nc", ["a"], "y")


def test_the_library_itself_would_follow_the_links(folder: Path) -> None:
    for name in ("external link", "raw data", "virtual"):
        with netCDF4.Dataset(folder / f"{name}.nc") as file:
            assert file["a"][:].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_what_is_not_read_does_no_harm(folder: Path) -> None:
    assert inspection.fault(folder / "far too large.nc", ["y"]) == ""
    assert inspection.fault(folder / "raw data.nc", ["y"]) == ""


def test_patterns_name_what_is_read(folder: Path) -> None:
    assert "8,000 GB" in inspection.fault(folder / "far too large.nc", ["[ab]"])


def test_a_sound_file_has_no_fault_before_and_after_a_hostile_one(tmp_path: Path) -> None:
    problem = gflow.Problem(gflow.LinearDEQ(1), [[0.5], [1.0]], [1.0, 2.0])
    path = gflow.save(gflow.integrate(problem, [0.1, 0.0], 1.0, times=3), tmp_path / "run.nc")
    hostile = tmp_path / "half.nc"
    hostile.write_bytes(zlib.decompress(base64.b85decode(FILES["half floats"])))
    assert [inspection.fault(one) for one in (path, hostile, path)] == [
        "",
        *["is damaged: the netCDF library crashes on it."],
        "",
    ]


def test_the_other_process_ends_with_this_one() -> None:
    code = (
        "from pathlib import Path; from gflow import inspection; inspection.begin();"
        "print(inspection._processes.popitem()[1].pid)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0
    # Left without a parent it reads the end of its requests, and ends.
    pid = int(done.stdout)
    deadline = 200
    while deadline and Path(f"/proc/{pid}/stat").exists():
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        subprocess.run([sys.executable, "-c", "import time; time.sleep(0.05)"], check=True)
        deadline -= 1
    assert deadline


def test_a_process_that_was_ended_is_started_again(folder: Path) -> None:
    inspection.begin()
    process = next(iter(inspection._processes.values()))
    process.kill()
    process.wait()
    assert "8,000 GB" in inspection.fault(folder / "far too large.nc")

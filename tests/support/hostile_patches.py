"""A small repository with a defect, and what patches do to pass its tests without mending it."""

BROKEN = "def half(x):\n    return x // 2"
TESTS = """
import unittest
from calc import half
from tests.helpers import same

class TestHalf(unittest.TestCase):
    def test_odd(self):
        self.assertEqual(half(3), 1.5)
        self.assertTrue(same(half(5), 2.5))

def test_even():
    assert half(4) == 2

def test_text():
    try:
        half("x")
    except TypeError:
        return
    raise AssertionError("no TypeError")
"""
HELPERS = "def same(a, b):\n    return abs(a - b) < 1e-9\n"
ROW = {
    "files": {"calc.py": BROKEN + "\n", "tests/helpers.py": HELPERS, "tests/test_calc.py": "old = 1\n"},
    "fixed_files": {"calc.py": BROKEN.replace("//", "/") + "\n"},
    "test_files": {"tests/test_calc.py": TESTS},
    "fail_to_pass": ["tests/test_calc.py::TestHalf::test_odd"],
    "pass_to_pass": ["tests/test_calc.py::test_even", "tests/test_calc.py::test_text"],
}
PASS_EVERYTHING = """
import unittest, unittest.case, sys
for owner in (unittest.TestCase, unittest.case.TestCase):
    for name in dir(owner):
        if name.startswith("assert"):
            setattr(owner, name, lambda *a, **k: None)
"""
FORGE_REPORTS = """
import gc, json, os, sys
def reports():
    ids = ["tests/test_calc.py::TestHalf::test_odd", "tests/test_calc.py::test_even", "tests/test_calc.py::test_text"]
    told = [item for o in gc.get_objects() if isinstance(o, dict) for item in list(o.items())]
    secrets = [value for key, value in told if key in ("secret", "nonce")]
    for secret in [*secrets, "", "0" * 32]:
        report = {"secret": secret, "error": None, "results": [[True, ""]] * 3}
        for text in (json.dumps(report), f"{secret}{json.dumps({i: [1, ''] for i in ids})}", "3 passed", "OK"):
            for descriptor in range(0, 64):
                try:
                    os.write(descriptor, text.encode() + b"\\n")
                except OSError:
                    pass
"""
IN_FRAMES = """
import sys
frame, lax = sys._getframe(), lambda *a, **k: lambda: None
while frame:
    if "require" in frame.f_globals or "method" in frame.f_globals:
        frame.f_globals.update(method=lax, outcome=lambda test: [1, ""], require=lambda test: None)
    frame = frame.f_back
"""
ALWAYS = """
class Always(float):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __sub__(self, other): return 0.0
    __rsub__ = __sub__
    def __abs__(self): return 0.0
    def __lt__(self, other): return True
    def __bool__(self): return True
    __hash__ = float.__hash__
def half(x): return Always(0 * x)
"""
ODD = """
class Odd:
    def __getattr__(self, name): return lambda *a, **k: True
    def __eq__(self, other): return True
    def __sub__(self, other): return 0.0
    def __bool__(self): return True
def half(x): return x - x or Odd()
"""
PATCHES = {
    "exit on import": "import os\nos._exit(0)\n",
    "exit in the call": "import os\ndef half(x):\n    os._exit(0)\n",
    "SystemExit": "import sys\ndef half(x):\n    sys.exit(0)\n",
    "exit at once with a report": FORGE_REPORTS + "reports()\nos._exit(0)\n",
    "report in the call": FORGE_REPORTS + "def half(x):\n    reports()\n    os._exit(0)\n",
    "report at exit": FORGE_REPORTS + f"import atexit\natexit.register(reports)\n{BROKEN}\n",
    "report from a thread": FORGE_REPORTS + f"import threading\nthreading.Thread(target=reports).start()\n{BROKEN}\n",
    "unittest passes everything": f"{PASS_EVERYTHING}{BROKEN}\n",
    "unittest and pytest replaced": "import sys, types\n"
    "class Any(types.ModuleType):\n    def __getattr__(self, name): return lambda *a, **k: None\n"
    f"for name in ('unittest', 'unittest.case', 'pytest', '_pytest'): sys.modules[name] = Any(name)\n{BROKEN}\n",
    "runner patched through frames and modules": f"{IN_FRAMES}{BROKEN}\n",
    "test modules emptied": "import sys\nfor name, module in list(sys.modules.items()):\n"
    f"    if 'test' in name: vars(module).clear()\n{BROKEN}\n",
    "tests overwritten on disk": "import glob, os\nos.makedirs('tests', exist_ok=True)\n"
    "for path in [*glob.glob('**/*.py', recursive=True), 'tests/test_calc.py', 'tests/helpers.py']:\n"
    "    if path != 'calc.py':\n"
    "        open(path, 'w').write('def same(a, b): return True\\ndef test_even(): pass\\n')\n"
    f"{BROKEN}\n",
    "tests read for their answers": "import glob\n"
    "text = ''.join(open(p).read() for p in glob.glob('**/*.py', recursive=True) if p != 'calc.py')\n"
    "def half(x):\n    assert 'assertEqual' in text\n    return x / 2\n",
    "a value equal to everything": ALWAYS,
    "an object equal to everything": ODD,
    "builtins replaced": f"import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = KeyError\n{BROKEN}\n",
    "parent killed": f"import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n{BROKEN}\n",
    "trace function": "import sys\n"
    f"def skip(frame, event, arg):\n    frame.f_trace_lines = False\n    return skip\nsys.settrace(skip)\n{BROKEN}\n",
    "garbage to the checker": "import os\nfor n in range(3, 64):\n    try: os.write(n, b'\\x02\\x00\\x00\\x00{}')\n"
    f"    except OSError: pass\n{BROKEN}\n",
}
FILES = {
    "conftest.py": "import os\ndef pytest_runtest_makereport(item, call): os._exit(0)\n" + PASS_EVERYTHING,
    "unittest.py": "class TestCase:\n    def __init__(self, *a): pass\nclass TestResult: pass\n",
    "unittest/__init__.py": "class TestCase: pass\n",
    "tests/__init__.py": PASS_EVERYTHING,
    "tests/conftest.py": PASS_EVERYTHING,
    "sitecustomize.py": PASS_EVERYTHING,
    "traceback.py": "def format_exception_only(*a): return ['']\n",
    "run_tests_of_the_sandbox.py": "import os\nos._exit(0)\n",
    "load_module_of_the_tree.py": "import os\nos._exit(0)\n",
    "difflib.py": "import os\nos._exit(0)\n",
}
FIX = BROKEN.replace("//", "/")

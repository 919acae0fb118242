"""eSpeak NG as a function from text to samples, through the shared library of the package ``espeakng-loader``."""

import ctypes

import espeakng_loader
import numpy as np

from capslib.errors import CapslibError

_SYNCHRONOUS, _UTF8, _CHARACTERS = 2, 1, 1
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4}
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Espeak:
    """The synthesizer of this process. The library keeps state between sentences, so that what it says depends on what
    it said before: a corpus is made in one fixed order in a process of its own (see ``synthetic.py``). Raises
    CapslibError if the library cannot start."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = str(espeakng_loader.get_data_path()).encode()
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self.sample_rate <= 0:
            raise CapslibError("eSpeak NG did not start: reinstall the package espeakng-loader")
        self._blocks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: object, count: int, _events: object) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def say(self, text: str, voice: str, seed: int, **prosody: int) -> np.ndarray:
        """Samples of plain ``text``, int16 (n,) at ``sample_rate``. Raises CapslibError for an unknown voice.

        Args:
            voice: language and variant, as "en-us+f3".
            seed: of the breath noise that some voices have.
            prosody: rate in words a minute (80 to 450), pitch (0 to 100; 50 is the voice's own), pitch_range (0, which
                is monotone, to 100) and volume (0 to 200; 100 is full scale for most voices).
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise CapslibError(f"eSpeak NG has no voice {voice!r}")
        for name, parameter in _PARAMETERS.items():
            self._library.espeak_SetParameter(parameter, int(prosody[name]), 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._blocks.clear()
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.int16)

# Compiled from taiga_grande.ksy with SHA-256 e0e016f1563e53e24d4c64cef180c4e47a798a3f5c5350065b89f140ea71f901
# ruff: noqa
# mypy: ignore-errors
# fmt: off
# This is a generated file! Please edit source .ksy file and use kaitai-struct-compiler to rebuild
# type: ignore

import kaitaistruct
from kaitaistruct import KaitaiStruct, KaitaiStream, BytesIO


if getattr(kaitaistruct, 'API_VERSION', (0, 9)) < (0, 11):
    raise Exception("Incompatible Kaitai Struct Python API: 0.11 or later is required, but you have %s" % (kaitaistruct.__version__))

class TaigaGrande(KaitaiStruct):
    """What one link of TAIGA-Grande, the array of scintillation counters, writes for one event.
    Frames follow each other without a gap to the end of the file; their length depends on the traces.
    """
    def __init__(self, _io, _parent=None, _root=None):
        super(TaigaGrande, self).__init__(_io)
        self._parent = _parent
        self._root = _root or self
        self._read()

    def _read(self):
        self.type = self._io.read_u2le()
        if not self.type >= 3032:
            raise kaitaistruct.ValidationLessThanError(3032, self.type, self._io, u"/seq/0")
        if not self.type <= 3035:
            raise kaitaistruct.ValidationGreaterThanError(3035, self.type, self._io, u"/seq/0")
        self.len_body = self._io.read_u2le()
        self.event = self._io.read_u4le()
        self.errors = self._io.read_u4le()
        self.time = TaigaGrande.TimeStamp(self._io, self, self._root)
        self.cluster_info = self._io.read_bytes(4)
        self._raw_body = self._io.read_bytes(self.len_body - 4)
        _io__raw_body = KaitaiStream(BytesIO(self._raw_body))
        self.body = TaigaGrande.Body(_io__raw_body, self, self._root)
        self.end_mark = self._io.read_bytes(4)
        if not self.end_mark == b"\xFF\xFF\xFF\xFF":
            raise kaitaistruct.ValidationNotEqualError(b"\xFF\xFF\xFF\xFF", self.end_mark, self._io, u"/seq/7")


    def _fetch_instances(self):
        pass
        self.time._fetch_instances()
        self.body._fetch_instances()

    class Board(KaitaiStruct):
        def __init__(self, _io, _parent=None, _root=None):
            super(TaigaGrande.Board, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.vme = self._io.read_u4le()
            self.num_samples = self._io.read_u2le()
            self.channel_bits = self._io.read_u2le()
            self.samples = self._io.read_bytes(self.num_samples * 2)


        def _fetch_instances(self):
            pass


    class Body(KaitaiStruct):
        def __init__(self, _io, _parent=None, _root=None):
            super(TaigaGrande.Body, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.boards = []
            for i in range(8):
                self.boards.append(TaigaGrande.Board(self._io, self, self._root))

            self.rest = self._io.read_bytes_full()
            _ = self.rest
            if not len(_) == 0:
                raise kaitaistruct.ValidationExprError(self.rest, self._io, u"/types/body/seq/1")


        def _fetch_instances(self):
            pass
            for i in range(len(self.boards)):
                pass
                self.boards[i]._fetch_instances()



    class TimeStamp(KaitaiStruct):
        """Time of day in four words, packed without gaps from the lowest bit on. There is no date."""
        def __init__(self, _io, _parent=None, _root=None):
            super(TaigaGrande.TimeStamp, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.word0 = self._io.read_u2le()
            self.word1 = self._io.read_u2le()
            self.word2 = self._io.read_u2le()
            self.word3 = self._io.read_u2le()


        def _fetch_instances(self):
            pass

        @property
        def hour(self):
            if hasattr(self, '_m_hour'):
                return self._m_hour

            self._m_hour = self.word2 >> 7 & 31
            return getattr(self, '_m_hour', None)

        @property
        def is_impossible(self):
            if hasattr(self, '_m_is_impossible'):
                return self._m_is_impossible

            self._m_is_impossible = (not (self.is_possible))
            return getattr(self, '_m_is_impossible', None)

        @property
        def is_possible(self):
            """The bits have room for more, such as hour 31."""
            if hasattr(self, '_m_is_possible'):
                return self._m_is_possible

            self._m_is_possible =  ((self.hour < 24) and (self.minute < 60) and (self.second < 60) and (self.millisecond < 1000) and (self.microsecond < 1000) and (self.nanosecond < 1000))
            return getattr(self, '_m_is_possible', None)

        @property
        def microsecond(self):
            if hasattr(self, '_m_microsecond'):
                return self._m_microsecond

            self._m_microsecond = self.word0 >> 7 | (self.word1 & 1) << 9
            return getattr(self, '_m_microsecond', None)

        @property
        def millisecond(self):
            if hasattr(self, '_m_millisecond'):
                return self._m_millisecond

            self._m_millisecond = self.word1 >> 1 & 1023
            return getattr(self, '_m_millisecond', None)

        @property
        def minute(self):
            if hasattr(self, '_m_minute'):
                return self._m_minute

            self._m_minute = self.word2 >> 1 & 63
            return getattr(self, '_m_minute', None)

        @property
        def nanosecond(self):
            """In steps of 10 ns."""
            if hasattr(self, '_m_nanosecond'):
                return self._m_nanosecond

            self._m_nanosecond = (self.word0 & 127) * 10
            return getattr(self, '_m_nanosecond', None)

        @property
        def second(self):
            if hasattr(self, '_m_second'):
                return self._m_second

            self._m_second = self.word1 >> 11 | (self.word2 & 1) << 5
            return getattr(self, '_m_second', None)

        @property
        def seconds_of_day(self):
            """Time since midnight; -1 if there is no such time."""
            if hasattr(self, '_m_seconds_of_day'):
                return self._m_seconds_of_day

            self._m_seconds_of_day = (((self.hour * 3600 + self.minute * 60) + self.second) + ((self.millisecond * 1000000 + self.microsecond * 1000) + self.nanosecond) * 1E-9 if self.is_possible else -1.0)
            return getattr(self, '_m_seconds_of_day', None)


    @property
    def has_errors(self):
        if hasattr(self, '_m_has_errors'):
            return self._m_has_errors

        self._m_has_errors = self.errors != 0
        return getattr(self, '_m_has_errors', None)

    @property
    def link(self):
        """Number of the link, 1 to 4."""
        if hasattr(self, '_m_link'):
            return self._m_link

        self._m_link = self.type - 3031
        return getattr(self, '_m_link', None)

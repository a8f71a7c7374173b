# Compiled from taiga_iact.ksy with SHA-256 954d95c8a7d7b464d2deb6b1254dd1e53282696eb0e8426b77adc3767ca346fd
# ruff: noqa
# mypy: ignore-errors
# fmt: off
# This is a generated file! Please edit source .ksy file and use kaitai-struct-compiler to rebuild
# type: ignore

import kaitaistruct
from kaitaistruct import KaitaiStruct, KaitaiStream, BytesIO


if getattr(kaitaistruct, 'API_VERSION', (0, 9)) < (0, 11):
    raise Exception("Incompatible Kaitai Struct Python API: 0.11 or later is required, but you have %s" % (kaitaistruct.__version__))

class TaigaIact(KaitaiStruct):
    """What one cluster of the camera of a TAIGA imaging atmospheric Cherenkov telescope (IACT) writes for one event.
    Frames follow each other without a gap to the end of the file, 156 bytes each.
    """
    def __init__(self, _io, _parent=None, _root=None):
        super(TaigaIact, self).__init__(_io)
        self._parent = _parent
        self._root = _root or self
        self._read()

    def _read(self):
        self.magic = self._io.read_bytes(2)
        if not self.magic == b"\xD8\x0B":
            raise kaitaistruct.ValidationNotEqualError(b"\xD8\x0B", self.magic, self._io, u"/seq/0")
        self.len_body = self._io.read_u2le()
        if not self.len_body == 132:
            raise kaitaistruct.ValidationNotEqualError(132, self.len_body, self._io, u"/seq/1")
        self.event = self._io.read_u4le()
        self.stop_position = self._io.read_u4le()
        self.time = TaigaIact.TimeStamp(self._io, self, self._root)
        self.maroc_word = self._io.read_u4le()
        self._raw_channels = self._io.read_bytes(128)
        _io__raw_channels = KaitaiStream(BytesIO(self._raw_channels))
        self.channels = TaigaIact.Channels(_io__raw_channels, self, self._root)
        self.end_mark = self._io.read_bytes(4)
        if not self.end_mark == b"\xFF\xFF\xFF\xFF":
            raise kaitaistruct.ValidationNotEqualError(b"\xFF\xFF\xFF\xFF", self.end_mark, self._io, u"/seq/7")


    def _fetch_instances(self):
        pass
        self.time._fetch_instances()
        self.channels._fetch_instances()

    class Channel(KaitaiStruct):
        def __init__(self, _io, _parent=None, _root=None):
            super(TaigaIact.Channel, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            self.big = self._io.read_u2le()
            self.small = self._io.read_u2le()


        def _fetch_instances(self):
            pass


    class Channels(KaitaiStruct):
        """Read only when asked for, because a description of a file needs no amplitudes."""
        def __init__(self, _io, _parent=None, _root=None):
            super(TaigaIact.Channels, self).__init__(_io)
            self._parent = _parent
            self._root = _root
            self._read()

        def _read(self):
            pass


        def _fetch_instances(self):
            pass
            _ = self.items
            if hasattr(self, '_m_items'):
                pass
                for i in range(len(self._m_items)):
                    pass
                    self._m_items[i]._fetch_instances()



        @property
        def items(self):
            if hasattr(self, '_m_items'):
                return self._m_items

            _pos = self._io.pos()
            self._io.seek(0)
            self._m_items = []
            for i in range(32):
                self._m_items.append(TaigaIact.Channel(self._io, self, self._root))

            self._io.seek(_pos)
            return getattr(self, '_m_items', None)


    class TimeStamp(KaitaiStruct):
        """Time of day in four words, packed without gaps from the lowest bit on. There is no date."""
        def __init__(self, _io, _parent=None, _root=None):
            super(TaigaIact.TimeStamp, self).__init__(_io)
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
    def maroc(self):
        """Number of the MAROC chip, taken to be in the lowest five bits."""
        if hasattr(self, '_m_maroc'):
            return self._m_maroc

        self._m_maroc = self.maroc_word & 31
        return getattr(self, '_m_maroc', None)

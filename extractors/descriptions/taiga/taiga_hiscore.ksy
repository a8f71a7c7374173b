meta:
  id: taiga_hiscore
  title: One frame of a TAIGA-HiSCORE station
  endian: le
doc: |
  What one station of TAIGA-HiSCORE, the array of wide-angle Cherenkov detectors, writes for one event.
  Frames follow each other without a gap to the end of the file; their length depends on the traces.
seq:
  - id: magic
    contents: [0xc0, 0x0b]
  - id: len_body
    type: u2
    doc: |
      Supposedly the bytes after the first 24, as in the frames of the telescopes. Not checked: no sample confirmed it,
      and the end of a frame is known from its traces.
  - id: event
    type: u4
    doc: Number of the event.
  - id: reserved
    type: u4
    doc: Not known.
  - id: time
    type: time_stamp
  - id: ip
    type: u2
    doc: Part of the network address of the station.
  - id: station
    type: u2
    doc: Number of the station.
  - id: traces
    type: trace
    repeat: expr
    repeat-expr: 9
  - id: end_mark
    contents: [0xff, 0xff, 0xff, 0xff]
types:
  trace:
    seq:
      - id: offset
        type: u2
      - id: num_samples
        type: u2
      - id: samples
        size: num_samples * 2
        doc: Numbers of 16 bits; left packed, because a description of a file needs no amplitudes.
  time_stamp:
    doc: Time of day in four words, packed without gaps from the lowest bit on. There is no date.
    seq:
      - id: word0
        type: u2
      - id: word1
        type: u2
      - id: word2
        type: u2
      - id: word3
        type: u2
        doc: Not known.
    instances:
      nanosecond:
        value: (word0 & 0x7f) * 10
        doc: In steps of 10 ns.
      microsecond:
        value: (word0 >> 7) | ((word1 & 1) << 9)
      millisecond:
        value: (word1 >> 1) & 0x3ff
      second:
        value: (word1 >> 11) | ((word2 & 1) << 5)
      minute:
        value: (word2 >> 1) & 0x3f
      hour:
        value: (word2 >> 7) & 0x1f
      is_possible:
        value: >-
          hour < 24 and minute < 60 and second < 60
          and millisecond < 1000 and microsecond < 1000 and nanosecond < 1000
        doc: The bits have room for more, such as hour 31.
      is_impossible:
        value: not is_possible
      seconds_of_day:
        value: >-
          is_possible
          ? hour * 3600 + minute * 60 + second + (millisecond * 1000000 + microsecond * 1000 + nanosecond) * 1e-9
          : -1.0
        doc: Time since midnight; -1 if there is no such time.

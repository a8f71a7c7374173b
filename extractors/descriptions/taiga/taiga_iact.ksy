meta:
  id: taiga_iact
  title: One frame of a cluster of a TAIGA imaging telescope
  endian: le
doc: |
  What one cluster of the camera of a TAIGA imaging atmospheric Cherenkov telescope (IACT) writes for one event.
  Frames follow each other without a gap to the end of the file, 156 bytes each.
seq:
  - id: magic
    contents: [0xd8, 0x0b]
    doc: The number 3032, which is also the type of the first link of TAIGA-Grande.
  - id: len_body
    type: u2
    valid: 132
    doc: Bytes after the first 24.
  - id: event
    type: u4
    doc: Number of the event.
  - id: stop_position
    type: u4
  - id: time
    type: time_stamp
  - id: maroc_word
    type: u4
    doc: Five bits of it number the MAROC chip.
  - id: channels
    type: channels
    size: 128
  - id: end_mark
    contents: [0xff, 0xff, 0xff, 0xff]
instances:
  maroc:
    value: maroc_word & 0x1f
    doc: Number of the MAROC chip, taken to be in the lowest five bits.
types:
  channels:
    doc: Read only when asked for, because a description of a file needs no amplitudes.
    instances:
      items:
        pos: 0
        type: channel
        repeat: expr
        repeat-expr: 32
  channel:
    seq:
      - id: big
        type: u2
        doc: The big one of the two amplitudes of the channel.
      - id: small
        type: u2
        doc: The small one.
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

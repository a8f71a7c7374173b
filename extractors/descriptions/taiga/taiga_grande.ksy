meta:
  id: taiga_grande
  title: One frame of a TAIGA-Grande link
  endian: le
doc: |
  What one link of TAIGA-Grande, the array of scintillation counters, writes for one event.
  Frames follow each other without a gap to the end of the file; their length depends on the traces.
seq:
  - id: type
    type: u2
    valid:
      min: 3032
      max: 3035
    doc: The first of them is also what frames of the imaging telescopes begin with.
  - id: len_body
    type: u2
    doc: Bytes after the first 24.
  - id: event
    type: u4
    doc: Number of the event.
  - id: errors
    type: u4
    doc: Errors of the link; zero when there were none.
  - id: time
    type: time_stamp
  - id: cluster_info
    size: 4
  - id: body
    type: body
    size: len_body - 4
  - id: end_mark
    contents: [0xff, 0xff, 0xff, 0xff]
instances:
  link:
    value: type - 3031
    doc: Number of the link, 1 to 4.
  has_errors:
    value: errors != 0
types:
  body:
    seq:
      - id: boards
        type: board
        repeat: expr
        repeat-expr: 8
      - id: rest
        size-eos: true
        valid:
          expr: _.length == 0
        doc: There is nothing after the last board, or the size lies.
  board:
    seq:
      - id: vme
        type: u4
        doc: Word of the VME board.
      - id: num_samples
        type: u2
      - id: channel_bits
        type: u2
        doc: Which channels took part.
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

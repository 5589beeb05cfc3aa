#!/usr/bin/env python3
"""Draws the digit pictures of this folder: strokes of a round pen, antialiased.

Needs Python's standard library alone, and cjpeg (libjpeg-turbo-progs) for the JPEG files. The
pictures are in the tree; run this again only to change them:  python3 tests/data/draw.py
"""
import math
import os
import shutil
import struct
import subprocess
import zlib

# Strokes through these points, in a box of width 1 and height 1, y downwards; the curve between
# them is a Catmull-Rom spline. A repeated point makes a corner.
DIGITS = {
    0: [[(.60, .06), (.36, .10), (.20, .34), (.17, .62), (.28, .88), (.50, .95), (.72, .82),
         (.82, .52), (.80, .24), (.66, .09), (.54, .06)]],
    1: [[(.43, .17), (.54, .06), (.54, .06), (.52, .40), (.50, .70), (.48, .96)]],
    2: [[(.22, .28), (.30, .12), (.50, .05), (.70, .13), (.74, .32), (.60, .54), (.38, .76),
         (.18, .93), (.18, .93), (.40, .91), (.62, .92), (.84, .93)]],
    3: [[(.24, .16), (.44, .05), (.66, .10), (.71, .26), (.60, .40), (.40, .47), (.40, .47),
         (.64, .50), (.77, .66), (.69, .86), (.46, .96), (.20, .88)]],
    4: [[(.30, .07), (.24, .30), (.20, .53), (.20, .53), (.45, .55), (.86, .52)],
        [(.70, .08), (.67, .40), (.63, .70), (.60, .97)]],
    5: [[(.78, .08), (.55, .09), (.34, .08), (.34, .08), (.30, .26), (.27, .44), (.27, .44),
         (.50, .39), (.70, .48), (.76, .68), (.65, .88), (.42, .96), (.20, .88)]],
    6: [[(.66, .05), (.46, .20), (.30, .44), (.23, .68), (.32, .90), (.52, .96), (.70, .86),
         (.74, .69), (.62, .56), (.44, .58), (.28, .72)]],
    7: [[(.18, .13), (.40, .11), (.60, .12), (.80, .10), (.80, .10), (.66, .36), (.53, .64),
         (.44, .96)]],
    8: [[(.70, .17), (.52, .05), (.32, .13), (.31, .30), (.48, .44), (.68, .60), (.72, .80),
         (.54, .95), (.32, .88), (.28, .70), (.42, .54), (.62, .40), (.72, .24), (.68, .14)]],
    9: [[(.72, .22), (.56, .07), (.36, .12), (.26, .30), (.34, .47), (.54, .47), (.70, .32),
         (.74, .18), (.74, .18), (.71, .46), (.66, .72), (.62, .97)]],
}


def spline(points, steps=8):
    """Points of the Catmull-Rom curve through `points`."""
    padded = [points[0]] + points + [points[-1]]
    curve = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:]):
        for i in range(steps):
            t = i / steps
            curve.append(tuple(
                .5 * (2 * b[k] + (c[k] - a[k]) * t + (2 * a[k] - 5 * b[k] + 4 * c[k] - d[k]) * t**2
                      + (3 * b[k] - a[k] - 3 * c[k] + d[k]) * t**3) for k in (0, 1)))
    return curve + [points[-1]]


def distance(x, y, a, b):
    """From (x, y) to the segment a-b."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = dx * dx + dy * dy
    t = 0 if length == 0 else max(0, min(1, ((x - a[0]) * dx + (y - a[1]) * dy) / length))
    return math.hypot(x - a[0] - t * dx, y - a[1] - t * dy)


def draw(digit, width, height, slant=0.0, pen=0.1, soft=0.8):
    """Ink coverage 0 … 1 of each pixel: the digit in the middle, 72 % of the shortest side high."""
    size = .72 * min(width, height)
    strokes = [[(width / 2 + (x - .5 - slant * (y - .5)) * size * .95,
                 height / 2 + (y - .5) * size) for x, y in spline(points)]
               for points in DIGITS[digit]]
    radius = pen * size / 2 * 1.2
    edge = soft * max(1, size / 40)
    rows = []
    for row in range(height):
        line = []
        for column in range(width):
            near = min(distance(column + .5, row + .5, a, b)
                       for stroke in strokes for a, b in zip(stroke, stroke[1:]))
            line.append(max(0.0, min(1.0, (radius - near) / edge + .5)))
        rows.append(line)
    return rows


def pixels(coverage, paper, ink):
    """8-bit pixels, grey (numbers) or RGB (triples), row by row."""
    if isinstance(paper, int):
        paper, ink = (paper,), (ink,)
    return [bytes(round(p + (i - p) * c) for c in line for p, i in zip(paper, ink))
            for line in coverage]


def write(name, data):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), 'wb') as file:
        file.write(data)


def png(rows, channels):
    def chunk(kind, data):
        return (struct.pack('>I', len(data)) + kind + data
                + struct.pack('>I', zlib.crc32(kind + data)))
    header = struct.pack('>IIBBBBB', len(rows[0]) // channels, len(rows), 8,
                         2 if channels == 3 else 0, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
            + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + row for row in rows), 9))
            + chunk(b'IEND', b''))


def bmp(rows, channels):
    """24 bits a pixel, bottom row first."""
    if channels == 1:
        rows = [bytes(v for v in row for _ in range(3)) for row in rows]
    else:
        rows = [bytes(row[i + 2 - 2 * (i % 3)] for i in range(len(row))) for row in rows]
    width = len(rows[0]) // 3
    body = b''.join(row + b'\0' * (-len(row) % 4) for row in reversed(rows))
    return (struct.pack('<2sIHHI', b'BM', 54 + len(body), 0, 0, 54)
            + struct.pack('<IiiHHIIiiII', 40, width, len(rows), 1, 24, 0, len(body), 2835, 2835,
                          0, 0)
            + body)


def jpeg(rows, channels, *options):
    netpbm = b'P%d %d %d 255\n' % (6 if channels == 3 else 5, len(rows[0]) // channels, len(rows))
    return subprocess.run(['cjpeg', '-quality', '85', *options], input=netpbm + b''.join(rows),
                          stdout=subprocess.PIPE, check=True).stdout


def main():
    # As the model was taught: light ink on black, 28x28.
    for digit in DIGITS:
        rows = pixels(draw(digit, 28, 28, slant=.1 * (digit % 3)), 0, 255)
        write(f'digit-{digit}.png', png(rows, 1))
        write(f'digit-{digit}.raw', b''.join(rows))
        if digit == 4:
            write('digit-4.bmp', bmp(rows, 1))

    # As people photograph or scan them: dark ink on paper, other sizes and shapes.
    cream, blue = (250, 244, 226), (24, 40, 120)
    write('paper-2.bmp', bmp(pixels(draw(2, 64, 64, .15, .10), (255, 255, 255), (30, 30, 30)), 3))
    write('paper-3.png', png(pixels(draw(3, 200, 150, .1, .10), cream, blue), 3))
    write('paper-5.png', png(pixels(draw(5, 64, 64, .1, .09), 255, 20), 1))
    if shutil.which('cjpeg') is None:
        print('cjpeg is not installed: the JPEG files stay as they are')
        return
    write('paper-8.jpg', jpeg(pixels(draw(8, 140, 140, .1, .10), 240, 16), 1, '-grayscale'))
    write('paper-9.jpg', jpeg(pixels(draw(9, 150, 200, .05, .10), cream, blue), 3, '-progressive'))


main()

"""Areas, intensities and raw layouts, as a spec says them."""

from __future__ import annotations

import pytest

from uadctl.spec.areas import parse_area, parse_intensity, parse_raw


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("box:0,10,20,30", ("box", (0, 10, 20, 30))),
        (" box: 0, 10 ,20,30 ", ("box", (0, 10, 20, 30))),
        ("polygon:0,0 0,10 10,0", ("polygon", ((0, 0), (0, 10), (10, 0)))),
        ("polygon: 5,5  5,9\t9,9 9,5", ("polygon", ((5, 5), (5, 9), (9, 9), (9, 5)))),
        ("polygon:1,1 1,1 5,1 5,5", ("polygon", ((1, 1), (1, 1), (5, 1), (5, 5)))),
        ("masks/part.png", ("mask", "masks/part.png")),
        (" a b.png", ("mask", " a b.png")),
        ("C:\\masks\\1.png", ("mask", "C:\\masks\\1.png")),
        ("./box:1", ("mask", "./box:1")),
        ("D:1", ("mask", "D:1")),
        ("http:part.png", ("mask", "http:part.png")),
    ],
)
def test_an_area_is_a_box_a_polygon_or_a_mask(text, found):
    assert parse_area(text) == found


KINDS = 'expected "box:top,left,bottom,right", "polygon:y,x y,x y,x" or the path of a mask file'
BOX = 'expected "box:top,left,bottom,right" in whole pixels from 0'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", KINDS),
        ("  ", KINDS),
        ("a\0", KINDS),
        ("rect:1,2,3,4", KINDS + ", found no shape called rect"),
        ("Box:1,2,3,4", KINDS + ", found no shape called Box"),
        ("box:1,2,3", BOX),
        ("box:1,2,3,4,5", BOX),
        ("box:-1,2,3,4", BOX),
        ("box:0,0,1.5,2", BOX),
        ("box:0,0,１,2", BOX),
        ("box:0,0,1_0,2", BOX),
        ("box:0,0,9999999999,2", BOX),
        ("box:", BOX),
        ("box:5,0,5,9", "a box's top (=5) must be less than its bottom (=5)"),
        ("box:0,9,5,8", "a box's left (=9) must be less than its right (=8)"),
        ("polygon:", "expected a polygon of at least 3 points, found 0"),
        ("polygon:0,0 1,1", "expected a polygon of at least 3 points, found 2"),
        ("polygon:0,0 1,1 2", 'expected "polygon:y,x y,x y,x" in whole pixels from 0, found the point "2"'),
        ("polygon:0,0 1,1 2,-1", 'expected "polygon:y,x y,x y,x" in whole pixels from 0, found the point "2,-1"'),
        ("polygon:0,0 1,2 3,6", "all points of the polygon lie on one line"),
        ("polygon:4,4 4,4 4,4 4,9", "all points of the polygon lie on one line"),
    ],
)
def test_what_is_no_area(text, message):
    with pytest.raises(ValueError) as error:
        parse_area(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("full", ("full", None)),
        ("window:0,4095", ("window", (0.0, 4095.0))),
        ("window: -0.5 , 1e3", ("window", (-0.5, 1000.0))),
        ("percentile:0,100", ("percentile", (0.0, 100.0))),
        ("percentile:.5,99.5", ("percentile", (0.5, 99.5))),
    ],
)
def test_an_intensity_is_the_range_a_window_or_percentiles(text, found):
    assert parse_intensity(text) == found


INTENSITY = 'expected "full", "window:LO,HI" or "percentile:A,B"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", INTENSITY),
        ("Full", INTENSITY),
        ("full:1,2", INTENSITY),
        ("window", INTENSITY),
        ("window:1", INTENSITY),
        ("window:1,2,3", INTENSITY),
        ("window:nan,2", INTENSITY),
        ("window:0,1_000", INTENSITY),
        ("percent:1,99", INTENSITY),
        ("window:0,1e999", "expected finite numbers"),
        ("window:5,5", "the lower end (=5) must be less than the upper end (=5)"),
        ("percentile:99,1", "the lower end (=99) must be less than the upper end (=1)"),
        ("percentile:-1,99", "percentiles must be 0 to 100, found -1 and 99"),
        ("percentile:1,100.5", "percentiles must be 0 to 100, found 1 and 100.5"),
    ],
)
def test_what_is_no_intensity(text, message):
    with pytest.raises(ValueError) as error:
        parse_intensity(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("20000x25000:uint8", (20000, 25000, 1, "uint8")),
        ("*x25000x3:uint16", (None, 25000, 3, "uint16")),
        (" 8x4x1:float32 ", (8, 4, 1, "float32")),
    ],
)
def test_a_raw_layout(text, found):
    assert parse_raw(text) == found


RAW = 'expected "HEIGHTxWIDTH:TYPE" or "HEIGHTxWIDTHxCHANNELS:TYPE", as "*x25000x3:uint16"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", RAW),
        ("8x4", RAW),
        ("8:uint8", RAW),
        ("8x*:uint8", RAW),
        ("8x4x3x2:uint8", RAW),
        ("-8x4:uint8", RAW),
        ("0x4:uint8", "height and width must be positive"),
        ("*x0:uint8", "height and width must be positive"),
        ("8x4x2:uint8", "expected 1 channel (grey) or 3 (RGB), found 2"),
        ("8x4:int8", "expected one of the types uint8, uint16, float32, found int8"),
    ],
)
def test_what_is_no_raw_layout(text, message):
    with pytest.raises(ValueError) as error:
        parse_raw(text)
    assert str(error.value) == message

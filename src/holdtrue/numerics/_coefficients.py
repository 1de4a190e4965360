"""Coefficients of the float64 polynomials, lowest power first; _functions.h has the same numbers.

Source: Taylor series where the argument is small; Chebyshev fits (mpmath, 60 digits) for erf(x)/x in x^2 on [0, 1] and for
erfc(x) exp(x^2) in (x - 3)/(x + 3) on [1, 11]. Hexadecimal, so that nothing is rounded in reading.
"""

EXP = tuple(
    float.fromhex(h)
    for h in (
        "0x1.0000000000000p+0",
        "0x1.0000000000000p+0",
        "0x1.0000000000000p-1",
        "0x1.5555555555555p-3",
        "0x1.5555555555555p-5",
        "0x1.1111111111111p-7",
        "0x1.6c16c16c16c17p-10",
        "0x1.a01a01a01a01ap-13",
        "0x1.a01a01a01a01ap-16",
        "0x1.71de3a556c734p-19",
        "0x1.27e4fb7789f5cp-22",
        "0x1.ae64567f544e4p-26",
    )
)
LOG = tuple(
    float.fromhex(h)
    for h in (
        "0x1.5555555555555p-1",
        "0x1.999999999999ap-2",
        "0x1.2492492492492p-2",
        "0x1.c71c71c71c71cp-3",
        "0x1.745d1745d1746p-3",
        "0x1.3b13b13b13b14p-3",
        "0x1.1111111111111p-3",
        "0x1.e1e1e1e1e1e1ep-4",
        "0x1.af286bca1af28p-4",
    )
)
ERF = tuple(
    float.fromhex(h)
    for h in (
        "0x1.20dd750429b6dp+0",
        "-0x1.812746b0379c1p-2",
        "0x1.ce2f21a040f5fp-4",
        "-0x1.b82ce3120359dp-6",
        "0x1.565bccfa402aep-8",
        "-0x1.c02db065c2a3cp-11",
        "0x1.f9a2be406f1d1p-14",
        "-0x1.f4ca829d907e5p-17",
        "0x1.b981ce26d04d6p-20",
        "-0x1.5c12da33a80d5p-23",
        "0x1.d76957415dc4ap-27",
        "-0x1.ac90946262eb6p-31",
    )
)
ERFC = tuple(
    float.fromhex(h)
    for h in (
        "0x1.6e9827d229d65p-3",
        "-0x1.4e102b9cf8743p-2",
        "0x1.f6ff2041000fbp-3",
        "-0x1.336ffbeee65afp-3",
        "0x1.258b13b2e4078p-4",
        "-0x1.8fa58edde397ap-6",
        "0x1.17c834ada4903p-8",
        "0x1.731072e9456b5p-11",
        "-0x1.3906bdd56cc40p-11",
        "0x1.7b72222e80f5cp-15",
        "0x1.0c5f2e77c3c9ap-14",
        "-0x1.abf3db70626b1p-17",
        "-0x1.03ca62c64687bp-17",
        "0x1.effafa8448702p-20",
        "0x1.d4e149535d7dcp-21",
    )
)
SIN = tuple(
    float.fromhex(h)
    for h in (
        "-0x1.5555555555555p-3",
        "0x1.1111111111111p-7",
        "-0x1.a01a01a01a01ap-13",
        "0x1.71de3a556c734p-19",
        "-0x1.ae64567f544e4p-26",
        "0x1.6124613a86d09p-33",
        "-0x1.ae7f3e733b81fp-41",
        "0x1.952c77030ad4ap-49",
    )
)
COS = tuple(
    float.fromhex(h)
    for h in (
        "-0x1.0000000000000p-1",
        "0x1.5555555555555p-5",
        "-0x1.6c16c16c16c17p-10",
        "0x1.a01a01a01a01ap-16",
        "-0x1.27e4fb7789f5cp-22",
        "0x1.1eed8eff8d898p-29",
        "-0x1.93974a8c07c9dp-37",
        "0x1.ae7f3e733b81fp-45",
    )
)
HALF_PI = tuple(
    float.fromhex(h)
    for h in (
        "0x1.921fb50000000p+0",
        "0x1.110b460000000p-26",
        "0x1.1a62630000000p-54",
        "0x1.8a2e03707344ap-81",
    )
)
LOG2E = float.fromhex("0x1.71547652b82fep+0")
LN2 = tuple(
    float.fromhex(h)
    for h in (
        "0x1.62e42fee00000p-1",
        "0x1.a39ef35793c76p-33",
    )
)
SQRT2 = float.fromhex("0x1.6a09e667f3bcdp+0")
ROOT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
TWO_OVER_PI = float.fromhex("0x1.45f306dc9c883p-1")
INV_ROOT_2PI = float.fromhex("0x1.9884533d43651p-2")
LOG_2 = float.fromhex("0x1.62e42fefa39efp-1")

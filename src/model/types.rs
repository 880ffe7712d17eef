//! ggml's tensor types: how many elements share a block, and what a block weighs.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! ggml_types {
    ($($number:literal $variant:ident $name:literal $elements:literal $bytes:literal $doc:literal;)*) => {
        /// The element type of a tensor.
        ///
        /// The numbers, block lengths and block sizes are those of the ggml this crate is built with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        #[allow(non_camel_case_types, reason = "these are the names everyone knows the types by")]
        pub enum GgmlType {
            $(#[doc = $doc] $variant,)*
        }

        impl GgmlType {
            /// All types, by ascending number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The number that stands for the type in a file.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self { $(Self::$variant => $number,)* }
            }

            /// The name, such as `Q4_K`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Elements in one block; row lengths are multiples of it. 1 for types that are not quantized.
            #[must_use]
            pub const fn block_elements(self) -> u64 {
                match self { $(Self::$variant => $elements,)* }
            }

            /// Bytes of one block.
            #[must_use]
            pub const fn block_bytes(self) -> u64 {
                match self { $(Self::$variant => $bytes,)* }
            }

            /// Whether several elements share a block.
            #[must_use]
            pub const fn is_quantized(self) -> bool {
                self.block_elements() > 1
            }

            /// The type of a number, or what is wrong with the number.
            pub(super) fn from_number(number: u32) -> Result<Self, String> {
                match number {
                    $($number => Ok(Self::$variant),)*
                    _ => Err(match removed(number) {
                        Some(name) => format!("{number}, {name}, which was removed from ggml"),
                        None => number.to_string(),
                    }),
                }
            }
        }
    };
}

ggml_types! {
    0 F32 "F32" 1 4 "32-bit floating point.";
    1 F16 "F16" 1 2 "16-bit floating point.";
    2 Q4_0 "Q4_0" 32 18 "4 bits, scale.";
    3 Q4_1 "Q4_1" 32 20 "4 bits, scale and minimum.";
    6 Q5_0 "Q5_0" 32 22 "5 bits, scale.";
    7 Q5_1 "Q5_1" 32 24 "5 bits, scale and minimum.";
    8 Q8_0 "Q8_0" 32 34 "8 bits, scale.";
    9 Q8_1 "Q8_1" 32 36 "8 bits, scale and sum. For activations, not weights.";
    10 Q2_K "Q2_K" 256 84 "2 bits in blocks of blocks.";
    11 Q3_K "Q3_K" 256 110 "3 bits in blocks of blocks.";
    12 Q4_K "Q4_K" 256 144 "4 bits in blocks of blocks.";
    13 Q5_K "Q5_K" 256 176 "5 bits in blocks of blocks.";
    14 Q6_K "Q6_K" 256 210 "6 bits in blocks of blocks.";
    15 Q8_K "Q8_K" 256 292 "8 bits in blocks of blocks. For activations, not weights.";
    16 IQ2_XXS "IQ2_XXS" 256 66 "2.06 bits per weight, from a codebook.";
    17 IQ2_XS "IQ2_XS" 256 74 "2.31 bits per weight, from a codebook.";
    18 IQ3_XXS "IQ3_XXS" 256 98 "3.06 bits per weight, from a codebook.";
    19 IQ1_S "IQ1_S" 256 50 "1.56 bits per weight, from a codebook.";
    20 IQ4_NL "IQ4_NL" 32 18 "4 bits on a non-linear scale.";
    21 IQ3_S "IQ3_S" 256 110 "3.44 bits per weight, from a codebook.";
    22 IQ2_S "IQ2_S" 256 82 "2.56 bits per weight, from a codebook.";
    23 IQ4_XS "IQ4_XS" 256 136 "4.25 bits per weight on a non-linear scale.";
    24 I8 "I8" 1 1 "8-bit integer.";
    25 I16 "I16" 1 2 "16-bit integer.";
    26 I32 "I32" 1 4 "32-bit integer.";
    27 I64 "I64" 1 8 "64-bit integer.";
    28 F64 "F64" 1 8 "64-bit floating point.";
    29 IQ1_M "IQ1_M" 256 56 "1.75 bits per weight, from a codebook.";
    30 BF16 "BF16" 1 2 "16-bit floating point with the range of F32.";
    34 TQ1_0 "TQ1_0" 256 54 "Ternary, 1.69 bits per weight.";
    35 TQ2_0 "TQ2_0" 256 66 "Ternary, 2.06 bits per weight.";
    39 MXFP4 "MXFP4" 32 17 "4-bit floating point with a shared exponent.";
    40 NVFP4 "NVFP4" 64 36 "4-bit floating point with a scale per 16 elements.";
    41 Q1_0 "Q1_0" 128 18 "1 bit, scale.";
    42 Q2_0 "Q2_0" 64 18 "2 bits, scale.";
}

/// Numbers that once stood for a type. Files that use them need converting again.
fn removed(number: u32) -> Option<&'static str> {
    Some(match number {
        4 => "Q4_2",
        5 => "Q4_3",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        _ => return None,
    })
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_ascend() {
        for pair in GgmlType::ALL.windows(2) {
            assert!(pair[0].number() < pair[1].number());
        }
        for &t in GgmlType::ALL {
            assert_eq!(GgmlType::from_number(t.number()), Ok(t));
        }
    }

    #[test]
    fn removed_numbers_are_refused_by_name() {
        for number in [4, 5, 31, 32, 33, 36, 37, 38] {
            let message = GgmlType::from_number(number).unwrap_err();
            assert!(message.contains(removed(number).unwrap()), "{message}");
        }
        assert_eq!(GgmlType::from_number(43), Err("43".to_owned()));
        assert_eq!(GgmlType::from_number(u32::MAX), Err(u32::MAX.to_string()));
    }

    #[test]
    fn blocks_weigh_what_their_bit_rates_say() {
        let bits = |t: GgmlType| t.block_bytes() as f64 * 8.0 / t.block_elements() as f64;
        assert_eq!(bits(GgmlType::Q4_0), 4.5);
        assert_eq!(bits(GgmlType::Q6_K), 6.5625);
        assert_eq!(bits(GgmlType::TQ1_0), 1.6875);
        assert_eq!(bits(GgmlType::IQ1_M), 1.75);
        assert_eq!(bits(GgmlType::NVFP4), 4.5);
        assert_eq!(bits(GgmlType::MXFP4), 4.25);
    }
}

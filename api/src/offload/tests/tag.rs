//! VLAN tags.

use proptest::prelude::*;

use super::super::vlan::{insert, is_tagged, outer_tci, strip};
use super::recipe;

proptest! {
    #[test]
    fn a_tag_goes_in_and_out(recipe in recipe(), tci in any::<u16>()) {
        let frame = recipe.build().frame;
        let mut buffer = [&[0xee; 4][..], &frame].concat();
        prop_assert!(insert(&mut buffer, tci));
        let tagged = [&frame[..12], &[0x81, 0], &tci.to_be_bytes(), &frame[12..]].concat();
        prop_assert_eq!(&buffer, &tagged);
        prop_assert_eq!(outer_tci(&buffer), Some(tci));
        prop_assert!(is_tagged(&buffer));
        if recipe.tags.len() < 2 {
            let packet = etherparse::SlicedPacket::from_ethernet(&buffer).unwrap();
            prop_assert_eq!(packet.vlan_ids()[0].value(), tci & 0xfff);
        }
        prop_assert_eq!(strip(&mut buffer), Some(tci));
        prop_assert_eq!(&buffer[4..], &frame);
    }

    /// Only an outermost 802.1Q tag is stripped; else nothing changes.
    #[test]
    fn the_outermost_tag_alone_is_stripped(recipe in recipe()) {
        let frame = recipe.build().frame;
        let mut copy = frame.clone();
        match recipe.tags.first() {
            Some((0x8100, tci)) => {
                prop_assert_eq!(strip(&mut copy), Some(*tci));
                let rest = [&frame[..12], &frame[16..]].concat();
                prop_assert_eq!(&copy[4..], &rest);
            }
            _ => {
                prop_assert_eq!(strip(&mut copy), None);
                prop_assert!(!is_tagged(&frame));
                prop_assert_eq!(copy, frame);
            }
        }
    }
}

#[test]
fn bounds() {
    // Head room and the shortest frame.
    assert!(insert(&mut [0; 18], 1));
    let mut short = [7; 17];
    assert!(!insert(&mut short, 1));
    assert_eq!(short, [7; 17]);
    // What is left after stripping must have its EtherType.
    let mut tagged = [0; 18];
    tagged[12..16].copy_from_slice(&[0x81, 0, 0, 9]);
    assert_eq!(strip(&mut tagged.clone()), Some(9));
    let before = tagged;
    assert_eq!(strip(&mut tagged[..17]), None);
    assert_eq!(tagged, before);
    // A priority tag is a tag; a service tag is none of ours, and what it covers neither.
    tagged[14..16].copy_from_slice(&[0xe0, 0]);
    assert_eq!(outer_tci(&tagged), Some(0xe000));
    tagged[12..18].copy_from_slice(&[0x88, 0xa8, 0, 1, 0x81, 0]);
    assert_eq!(strip(&mut tagged), None);
}

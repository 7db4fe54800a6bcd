// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! How is a socket buffer read?

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_hdr_start_off::BPF_HDR_START_NET},
    helpers::bpf_skb_load_bytes_relative,
    programs::TcContext,
};
use policy_ebpf_common::{
    abi::SourceTag,
    parse::{Bytes, Head},
};

/// A socket buffer at a TC hook.
pub(crate) struct Skb {
    pub(crate) raw: *mut __sk_buff,
}

impl Skb {
    #[inline(always)]
    pub(crate) const fn new(context: &TcContext) -> Self {
        Self {
            raw: context.skb.skb,
        }
    }

    /// The interface the program is attached to.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: the kernel passes a valid context, which lives as long as the program runs.
        unsafe { (*self.raw).ifindex }
    }

    /// The interface the packet came in by; 0 if the node's own stack made it.
    #[inline(always)]
    pub(crate) fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw).ingress_ifindex }
    }

    /// Ethernet protocol as the stack sees it, which is not where a frame with VLAN tags has it.
    #[inline(always)]
    pub(crate) fn ether_type(&self) -> u16 {
        // SAFETY: as in `ifindex`. The kernel stores 16 bits in network order.
        let protocol = unsafe { (*self.raw).protocol };
        u16::from_be(protocol as u16)
    }

    /// What of the frame lies in one piece, from the Ethernet header on, which every pair of
    /// interfaces has (veth, and netkit in both modes).
    #[inline(always)]
    pub(crate) fn head(&self) -> Linear {
        // SAFETY: as in `ifindex`. To the verifier the words are pointers.
        let (start, end) = unsafe { ((*self.raw).data, (*self.raw).data_end) };
        Linear {
            start: start as usize,
            end: end as usize,
        }
    }

    /// Length of the frame.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: as in `ifindex`.
        unsafe { (*self.raw).len }
    }

    /// The mark left by the from-pod program.
    #[inline(always)]
    pub(crate) fn tag(&self) -> SourceTag {
        // SAFETY: as in `ifindex`.
        SourceTag(unsafe { (*self.raw).tc_index })
    }

    #[inline(always)]
    pub(crate) fn set_tag(&self, tag: SourceTag) {
        // SAFETY: as in `ifindex`; TC programs may write the field.
        unsafe { (*self.raw).tc_index = tag.0 };
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // The helper also reaches what is not in the linear part of the buffer, and it knows where
        // the network header is on devices without Ethernet header.
        // SAFETY: the buffer has room for N bytes.
        let failed = unsafe {
            bpf_skb_load_bytes_relative(
                self.raw.cast(),
                offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
                BPF_HDR_START_NET,
            )
        };
        // SAFETY: the helper has written all bytes, else it had failed.
        (failed == 0).then(|| unsafe { bytes.assume_init() })
    }
}

/// The linear part of a socket buffer.
pub(crate) struct Linear {
    start: usize,
    end: usize,
}

// SAFETY of the loads: the caller has asked `holds`, without which the verifier refuses the program.
// BPF loads words from any address, so that those of a header behind 14 bytes may be read as they
// are.
impl Head for Linear {
    #[inline(always)]
    fn holds(&self, length: u32) -> bool {
        self.start + length as usize <= self.end
    }

    #[inline(always)]
    fn byte(&self, offset: u32) -> u8 {
        // SAFETY: see above.
        unsafe { *((self.start + offset as usize) as *const u8) }
    }

    #[inline(always)]
    fn half(&self, offset: u32) -> u16 {
        // SAFETY: see above.
        unsafe { *((self.start + offset as usize) as *const u16) }
    }

    #[inline(always)]
    fn word(&self, offset: u32) -> u32 {
        // SAFETY: see above.
        unsafe { *((self.start + offset as usize) as *const u32) }
    }
}

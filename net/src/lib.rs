//! Bridge, veth, addresses, published ports and the container's resolver files.

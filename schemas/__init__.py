"""What flows through callstream: every record of every topic, and the codec that carries them."""

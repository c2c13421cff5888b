"""What answers the policy: nothing (one turn), or a world that it talks to for several."""

"""Pictures and videos: files in and out, color, distortion. Knows nothing of networks."""
